"""Names of Django's and asgiref's: whether they are there, and how one is given another meaning."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import CodeType
from typing import Any, Final, Literal

import django
from django.apps import apps

Part = Literal["orm", "request", "middleware"]
Make = Callable[[Any], Any]
"""Returns what a name is to mean, given what it means now."""

_NOTHING: Final = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class Name:
    """A name that is given another meaning."""

    module: str
    attribute: str
    """Within the module, with dots."""
    make: Make
    reason: str
    """What runs on the loop by it."""
    part: Part = "orm"
    since: tuple[int, int] = (5, 2)
    """The first series of Django that has it."""
    app: str | None = None
    """The app without which its module cannot be imported."""

    def __str__(self) -> str:
        return f"{self.module}.{self.attribute}"

    @property
    def there(self) -> bool:
        """Whether this Django, and this project, is to have it."""
        return django.VERSION[:2] >= self.since and (not self.app or apps.is_installed(self.app))

    def put(self) -> Callable[[], None]:
        """Give it its new meaning, and return what gives back the old one."""
        path, _, last = self.attribute.rpartition(".")
        owner = functools.reduce(getattr, filter(None, path.split(".")), _imported(self.module))
        before = vars(owner).get(last, _NOTHING)
        setattr(owner, last, self.make(getattr(owner, last)))
        if before is _NOTHING:  # it is of the object's class
            return functools.partial(delattr, owner, last)
        return functools.partial(setattr, owner, last, before)


class NamesMissing(RuntimeError):
    """Private names that are needed are not there. Nothing has been changed."""

    def __init__(self, names: list[str]) -> None:
        super().__init__(names)
        self.names = names

    def __str__(self) -> str:
        return (
            f"Django {django.get_version()} has no {', '.join(self.names)}: its async methods "
            "run on threads, as without ASYNC_ORM"
        )


def missing(names: Iterable[Name], relied: Iterable[str]) -> Iterator[str]:
    """Yield what is not there of names to be given a meaning, and of others that are looked at.

    Of these the last parts may be an inner function, and a variable that it has of the one around.
    """
    for name in names:
        if name.there and not _is_there(_imported(name.module), name.attribute.split(".")):
            yield str(name)
    for path in relied:
        module, _, attribute = path.partition(":")
        if not _is_there(_imported(module), attribute.split(".")):
            yield path.replace(":", ".")


def _imported(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        return None


def _is_there(owner: Any, attributes: Iterable[str]) -> bool:
    for attribute in attributes:
        if isinstance(owner, CodeType):
            return attribute in owner.co_freevars
        found = getattr(owner, attribute, _NOTHING)
        if found is _NOTHING:
            found = _inner(owner, attribute)
        if found is _NOTHING:
            return False
        owner = found
    return True


def _inner(function: Any, name: str) -> Any:
    """Return the code of a function's inner function of this name."""
    code = getattr(function, "__code__", None)
    constants = code.co_consts if isinstance(code, CodeType) else ()
    found = [each for each in constants if isinstance(each, CodeType) and each.co_name == name]
    return found[0] if found else _NOTHING

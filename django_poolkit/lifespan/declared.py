"""The resources of a project: declared by a decorator, or named in the settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, overload

from django.utils.module_loading import import_string

from django_poolkit.conf.lifespan import lifespan_config
from django_poolkit.lifespan import access
from django_poolkit.lifespan.base import Function, Resource, ResourceError, opener

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, eq=False)
class Declared(Resource[T]):
    """A resource of a project, and the way to what it is open as."""

    origin: str
    """Module and name of the function that opens it."""

    def get(self) -> T:
        """Return what it is open as.

        Where no server has opened it, opens it on a loop in the background, which blocks for its
        start timeout at most. In a coroutine it never blocks.

        Raises ResourceError where it is not ready or cannot be opened, PoolClosed where it was
        closed, WrongLoop on an event loop that is not the server's.
        """
        return access.get(self)

    async def aget(self) -> T:
        """Return what it is open as on the running event loop.

        Where no server has opened it, opens it; it is closed as the loop ends. Raises as `get()`.
        """
        return await access.aget(self)


_declared: dict[str, Declared[Any]] = {}


@overload
def resource(function: Function[T], /) -> Declared[T]: ...
@overload
def resource(
    *,
    name: str | None = None,
    required: bool = True,
    start_timeout: float | None = None,
    stop_timeout: float | None = None,
) -> Callable[[Function[T]], Declared[T]]: ...
def resource(function: Any = None, /, **options: Any) -> Any:
    """Declare a resource: `@resource`, or with options in parentheses.

    Below stands an async generator function that yields once, or a function that returns an
    async context manager. Its name is the function's unless `name` is given. A server does not
    start without a `required` one; others are tried again in the background. Timeouts are
    seconds.

    Raises TypeError for another kind of function, ValueError for options that cannot be honoured.
    """
    if function is None:
        return lambda function: _declare(function, **options)
    return _declare(function)


def _declare(function: Any, name: str | None = None, **options: Any) -> Declared[Any]:
    enter = opener(function)
    name = name or getattr(function, "__name__", "")
    if not isinstance(name, str) or not name.isidentifier():
        raise ValueError(f"the name of a resource must be an identifier; got {name!r}")
    module, inner = (getattr(function, key, "") for key in ("__module__", "__qualname__"))
    made = Declared(name=name, enter=enter, origin=f"{module}.{inner}", **options)
    before = _declared.get(name)
    # The same function is declared again where its module is loaded again.
    if before is not None and before.origin != made.origin:
        raise ValueError(f"two resources are called {name!r}: {before.origin} and {made.origin}")
    _declared[name] = made
    return made


def declared() -> list[Declared[Any]]:
    """Return the resources of the project in the order of their opening.

    First those of `POOLKIT["LIFESPAN"]["RESOURCES"]`, which are imported, then what else was
    declared. Raises ResourceError where one of the settings cannot be imported.
    """
    named = [_imported(path) for path in lifespan_config().resources]
    return [*named, *(each for each in _declared.values() if each not in named)]


def _imported(path: str) -> Declared[Any]:
    where = f"POOLKIT['LIFESPAN']['RESOURCES'] names {path!r}, which"
    try:
        found = import_string(path)
    except Exception as error:
        text = f"{where} cannot be imported: {type(error).__name__}"
        raise ResourceError(text) from error
    if isinstance(found, Declared):
        return found
    origin = f"{getattr(found, '__module__', '')}.{getattr(found, '__qualname__', '')}"
    for known in _declared.values():
        if known.origin == origin:
            return known
    try:
        return _declare(found)
    except (TypeError, ValueError) as error:
        raise ResourceError(f"{where} cannot be one: {error}") from error


class Resources(Mapping[str, Declared[Any]]):
    """The resources of the project, by name: `resources["redis"].get()`."""

    def __getitem__(self, name: str) -> Declared[Any]:
        found = {each.name: each for each in declared()}
        if name not in found:
            known = ", ".join(found) or "none is declared"
            raise KeyError(f"there is no resource {name!r}. Known are: {known}")
        return found[name]

    def __iter__(self) -> Iterator[str]:
        return iter([each.name for each in declared()])

    def __len__(self) -> int:
        return len(declared())

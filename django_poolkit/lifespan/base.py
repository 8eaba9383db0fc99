"""What a resource is: how it is opened and closed, and how long that may take."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from django_poolkit.pools.errors import PoolError

T = TypeVar("T")

Function = Callable[[], "AsyncIterator[T] | AbstractAsyncContextManager[T]"]
"""An async generator that yields once, or whatever returns an async context manager."""


class ResourceError(PoolError):
    """A resource is not open: it failed, hangs, or is not ready yet.

    Its text names the resource and the class of what went wrong, never a driver's own words.
    """


@dataclass(frozen=True, kw_only=True, eq=False)
class Resource(Generic[T]):
    """Something that a process opens once and closes at its end."""

    name: str
    """Unique. Those of the kit have a colon in it: `pool:default`, `http:payments`."""
    enter: Callable[[], AbstractAsyncContextManager[T]]
    """Called for each opening. The manager is entered and left in one and the same task."""
    required: bool = True
    """Whether a server must not start without it."""
    start_timeout: float | None = None
    """Seconds for opening it; None means the default of the settings."""
    stop_timeout: float | None = None
    """Seconds for closing it; None means the default of the settings."""

    def __post_init__(self) -> None:
        """Refuse what cannot be honoured, by ValueError."""
        for key in ("start_timeout", "stop_timeout"):
            value = getattr(self, key)
            if value is not None and not (_is_number(value) and value > 0):
                raise ValueError(f"resource {self.name!r}: {key} must be above 0; got {value!r}")
        if not isinstance(self.required, bool):
            raise ValueError(f"resource {self.name!r}: required must be True or False")

    def manager(self) -> AbstractAsyncContextManager[T]:
        """Return a manager for one opening. Raises ResourceError where the function has none."""
        found: Any = self.enter()
        if hasattr(type(found), "__aenter__") and hasattr(type(found), "__aexit__"):
            return found  # type: ignore[no-any-return]
        if inspect.iscoroutine(found):
            found.close()
        kind = "nothing" if found is None else f"a {type(found).__name__}"
        raise ResourceError(
            f"resource {self.name!r}: its function returned {kind}, where an async context "
            "manager is due"
        )


def opener(function: Function[T]) -> Callable[[], AbstractAsyncContextManager[T]]:
    """Return what opens a resource that is written as a function.

    Raises TypeError for a function that cannot be one.
    """
    if inspect.isasyncgenfunction(function):
        return asynccontextmanager(function)
    if (
        not callable(function)
        or inspect.iscoroutinefunction(function)
        or inspect.isgeneratorfunction(function)
    ):
        # What is no function may be anything, as a dict with passwords.
        shown = repr(function) if callable(function) else f"a {type(function).__name__}"
        raise TypeError(
            f"a resource is an async generator function with one yield, or a function that "
            f"returns an async context manager; got {shown}"
        )
    return function  # type: ignore[return-value]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def said_of(error: BaseException) -> str:
    """Return what may be said of an error to anybody: its class, and of our own the text.

    The text of a driver's error may hold a part of a password.
    """
    if isinstance(error, ResourceError):
        return str(error)
    if isinstance(error, BaseExceptionGroup):
        inner = ", ".join(dict.fromkeys(said_of(each) for each in error.exceptions))
        return f"{type(error).__name__} of {inner}"
    return type(error).__name__


def stack_of(error: BaseException) -> str:
    """Return where an error was raised, and those that it stems from, without their texts."""
    parts = ["".join(traceback.format_tb(error.__traceback__)).rstrip()]
    if isinstance(error, BaseExceptionGroup):
        parts += [stack_of(each) for each in error.exceptions]
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None:
        parts += [f"from {said_of(cause)}", stack_of(cause)]
    return "\n".join(part for part in parts if part)

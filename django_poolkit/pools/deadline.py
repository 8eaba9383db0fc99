"""A deadline: until when a block of code may wait for the database, all in all.

It is carried by a context variable, so it reaches the threads and tasks that Django, asgiref and
asyncio run on a block's behalf. Of nested ones the tighter holds.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar, Token
from time import monotonic
from typing import Any, Final, ParamSpec, TypeVar, cast

_P = ParamSpec("_P")
_R = TypeVar("_R")


class Deadline:
    """A moment on the monotonic clock, and what it was made from."""

    __slots__ = ("at", "seconds")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        """How long the block may take from its beginning."""
        self.at = monotonic() + seconds
        """When its time is up, on the monotonic clock."""

    def left(self) -> float:
        """Return the seconds that are left, 0.0 where the time is up. Never blocks."""
        return max(0.0, self.at - monotonic())

    def __repr__(self) -> str:
        return f"<Deadline of {self.seconds:.2f} s, {self.left():.2f} s left>"


_current: ContextVar[Deadline | None] = ContextVar("django_poolkit_deadline", default=None)

current: Final = _current.get
"""Return the deadline that holds here, None where there is none."""


class deadline:  # noqa: N801 - used as a verb, like contextlib's own
    """Bound what a block waits for the database by `seconds`: acquires and statements together.

    A context manager, in synchronous code and in coroutines, and a decorator of functions and
    coroutine functions. In a block within another one the tighter of the two holds. What is
    entered is the `Deadline` that holds; its `left()` tells the seconds for others to wait.

    In the block an acquire raises PoolTimeout, a statement DeadlineExceeded. Raises ValueError
    for a time that is not above 0 or never ends.
    """

    def __init__(self, seconds: float) -> None:
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
            raise ValueError(f"a deadline needs seconds; got a {type(seconds).__name__}")
        if not 0 < seconds < math.inf:  # nan neither
            raise ValueError(f"a deadline's seconds must be above 0 and finite; got {seconds!r}")
        self.seconds = float(seconds)
        self._tokens: list[Token[Deadline | None]] = []

    def __enter__(self) -> Deadline:
        here, outer = Deadline(self.seconds), current()
        if outer is not None and outer.at <= here.at:
            here = outer
        self._tokens.append(_current.set(here))
        return here

    def __exit__(self, *exc_info: object) -> None:
        token = self._tokens.pop()
        # A coroutine that its finalizer closes ends in another context than it began in.
        with suppress(ValueError):
            _current.reset(token)

    def __call__(self, function: Callable[_P, _R]) -> Callable[_P, _R]:
        """Decorate a function or a coroutine function: each call has the whole time."""
        seconds = self.seconds
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def bounded_task(*args: _P.args, **kwargs: _P.kwargs) -> Any:
                with deadline(seconds):
                    return await function(*args, **kwargs)

            return cast("Callable[_P, _R]", bounded_task)
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(
                f"deadline() cannot decorate the generator {function.__qualname__}(): its body "
                "runs after the call. Use `with deadline(...)` inside of it"
            )

        @functools.wraps(function)
        def bounded(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            with deadline(seconds):
                return function(*args, **kwargs)

        return bounded

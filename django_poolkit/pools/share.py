"""Which share of a pool the code that runs here belongs to, where somebody says so by hand."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar, Token
from typing import Any, Final, ParamSpec, TypeVar, cast

_P = ParamSpec("_P")
_R = TypeVar("_R")

_current: ContextVar[str | None] = ContextVar("django_poolkit_share", default=None)

current: Final = _current.get
"""Return the share that was named by hand, None where none was."""


class share:  # noqa: N801 - used as a verb, like contextlib's own
    """Have what a block acquires count against one share of each pool that has it.

    A context manager, in synchronous code and in coroutines, and a decorator of functions and
    coroutine functions. The innermost one counts. A pool whose option `shares` does not list the
    name takes no note of it. Leases of Django's connections say it where somebody looks at them.
    Raises ValueError for what is no name.
    """

    def __init__(self, name: str) -> None:
        if not isinstance(name, str) or not name:
            raise ValueError(f"a share needs a name; got a {type(name).__name__}")
        self.name = name
        self._tokens: list[Token[str | None]] = []

    def __enter__(self) -> None:
        self._tokens.append(_current.set(self.name))

    def __exit__(self, *exc_info: object) -> None:
        token = self._tokens.pop()
        # A coroutine that its finalizer closes ends in another context than it began in.
        with suppress(ValueError):
            _current.reset(token)

    def __call__(self, function: Callable[_P, _R]) -> Callable[_P, _R]:
        """Decorate a function or a coroutine function."""
        name = self.name
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def counted_task(*args: _P.args, **kwargs: _P.kwargs) -> Any:
                with share(name):
                    return await function(*args, **kwargs)

            return cast("Callable[_P, _R]", counted_task)
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(
                f"share() cannot decorate the generator {function.__qualname__}(): its body "
                "runs after the call. Use `with share(...)` inside of it"
            )

        @functools.wraps(function)
        def counted(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            with share(name):
                return function(*args, **kwargs)

        return counted

"""Blocks that are also decorators, of functions and of coroutine functions alike."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, Final, Generic, ParamSpec, Protocol, TypeVar, cast

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
V = TypeVar("V")


class Entered(Protocol):
    """What a block enters where it keeps account of those that are open."""

    @property
    def owner(self) -> object:
        """The block."""


E = TypeVar("E", bound=Entered)

_LAZY: Final = "{} yields, so its body runs when the block is over: use `with` inside of it"


def place_of(owner: object, entries: Sequence[Entered]) -> int | None:
    """Return where a block's newest entry stands, None where there is none.

    Not simply at the end: a generator that was suspended within its block ends it while its
    consumer is in blocks of its own. And one that a finalizer closes ends in another context,
    which never entered this.
    """
    for index in range(len(entries) - 1, -1, -1):
        if entries[index].owner is owner:
            return index
    return None


def leave(owner: object, entries: tuple[E, ...]) -> tuple[E, ...]:
    """Return the entries of open blocks without a block's newest one, if it has one there."""
    place = place_of(owner, entries)
    return entries if place is None else entries[:place] + entries[place + 1 :]


class Block(Generic[V]):
    """A `with` block, and a decorator that runs a function in one.

    It keeps nothing of an entry in itself, so one may be shared by threads and tasks, and be
    entered again within itself.
    """

    def __enter__(self) -> V:
        raise NotImplementedError

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        raise NotImplementedError

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Return `function`, run in this block each time; a coroutine function is awaited in it.

        Raises TypeError for a generator function, sync or async: the block would be over before
        its first line runs.
        """
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(_LAZY.format(getattr(function, "__qualname__", function)))
        if inspect.iscoroutinefunction(function):
            coroutine_function = cast(Callable[..., Any], function)

            @functools.wraps(function)
            async def awaited(*args: Any, **kwargs: Any) -> Any:
                return await self._awaited(functools.partial(coroutine_function, *args, **kwargs))

            return cast(Callable[P, R], awaited)

        @functools.wraps(function)
        def called(*args: P.args, **kwargs: P.kwargs) -> R:
            with self:
                return function(*args, **kwargs)

        return called

    async def _awaited(self, call: Callable[[], Awaitable[T]]) -> T:
        """Await a call in this block. For those whose beginning waits, to do so as a task."""
        with self:
            return await call()

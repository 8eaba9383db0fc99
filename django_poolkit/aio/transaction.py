"""`aatomic`: transactions in async code."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import wraps
from inspect import iscoroutinefunction
from typing import Any, ParamSpec, TypeVar, overload

from django.db.transaction import Atomic

from django_poolkit.aio.blocks import Block
from django_poolkit.backends.postgresql.awaiting import lost_by_cancellation

P = ParamSpec("P")
T = TypeVar("T")

_AsyncFunction = Callable[P, Coroutine[Any, Any, T]]


class AsyncAtomic(Block):
    """What `aatomic()` returns: an asynchronous context manager, and a decorator."""

    def __init__(self, using: str | None, savepoint: bool, durable: bool) -> None:
        super().__init__(using)
        self.savepoint = savepoint
        self.durable = durable

    def _begin(self, wrapper: Any) -> Atomic:
        if not wrapper.needs_rollback:
            wrapper.rollback_exc = None  # of a block that has been rolled back
        block = Atomic(self.using, self.savepoint, self.durable)
        block.__enter__()
        return block

    def _end(self, begun: Atomic, wrapper: Any, exc: BaseException | None) -> None:
        cancelled = wrapper._cancelled_by()
        begun.__exit__(
            None if exc is None else type(exc), exc, None if exc is None else exc.__traceback__
        )
        if exc is None and cancelled is not None:
            raise lost_by_cancellation() from cancelled

    def __call__(self, function: _AsyncFunction[P, T]) -> _AsyncFunction[P, T]:
        """Return a coroutine function that runs in such a block. Raises TypeError for others."""
        if not iscoroutinefunction(function):
            raise TypeError(
                f"aatomic() decorates coroutine functions, and {_name_of(function)} is none: use "
                "django.db.transaction.atomic"
            )

        @wraps(function)
        async def inner(*args: P.args, **kwargs: P.kwargs) -> T:
            async with self:
                return await function(*args, **kwargs)

        return inner


@overload
def aatomic(using: _AsyncFunction[P, T], /) -> _AsyncFunction[P, T]: ...
@overload
def aatomic(
    using: str | None = None, savepoint: bool = True, durable: bool = False
) -> AsyncAtomic: ...
def aatomic(using: Any = None, savepoint: bool = True, durable: bool = False) -> Any:
    """Run a block of async code in a transaction, as `django.db.transaction.atomic` does for sync.

    Used as `async with aatomic():`, or as the decorator of a coroutine function. Nested, it makes
    a savepoint. The block has one connection: bridged calls in it, Django's own async methods, and
    threads that it reaches use that one. Its child tasks take turns on it, one call or one nested
    block after the other; a task that goes on after the block has no part in it any more.

    Its end waits for the calls that are under way in it; 5 seconds at most where it was cancelled,
    and then those who go on lose the connection. A commit, with its callbacks, or a rollback goes
    to its end, whoever cancels the task meanwhile: a cancellation waits for each of them as long
    as that, and then ends the callback, or the commit, that runs. Where a statement was cancelled,
    as by a timeout, and that was caught within the block, it is rolled back, and raises
    TransactionManagementError; put a nested block within the `try`.

    `transaction.on_commit()` works in it, and takes coroutine functions as well. Raises
    RuntimeError where `durable` is nested, or the alias has no pool of django_poolkit.
    """
    if callable(using):
        return AsyncAtomic(None, savepoint, durable)(using)
    return AsyncAtomic(using, savepoint, durable)


def _name_of(function: Any) -> str:
    return str(getattr(function, "__qualname__", type(function).__name__))

"""The tasks of event loops in the queue of a pool, in one line with the threads.

A task sleeps on a future of its loop. Whoever hands over a connection does so under the pool's
lock, from any thread, and wakes the loop. A loop that has been closed refuses, and the connection
goes to the next.
"""

from __future__ import annotations

import asyncio
from _thread import get_ident
from collections.abc import Iterable
from typing import Final, Protocol
from weakref import ref

from django_poolkit.pools.lease import Lease
from django_poolkit.pools.postgres.waiters import Waiter

# Seconds between two looks of a loop whether something was left undone for those who wait on it.
_ROUND: Final = 0.25
# Longer than anybody waits; what is above it would not fit into the clock of a loop.
_FOREVER: Final = 1e8


class TaskWaiter(Waiter):
    """A task in the queue, to be made on its loop."""

    __slots__ = ("_future", "_owner", "loop", "until")

    def __init__(self, lease: Lease) -> None:
        super().__init__(lease)
        self.loop = asyncio.get_running_loop()
        self.until = 0.0
        """When its time is up, on the monotonic clock."""
        self._owner = get_ident()
        self._future = self.loop.create_future()

    def _wake(self) -> bool:
        """Wake the task; return False where it has been cancelled, or its loop was closed."""
        try:
            if self._owner == get_ident():
                if self._future.done() or self.loop.is_closed():
                    return False
                self._future.set_result(None)
                return True
            if self._future.cancelled():
                return False
            self.loop.call_soon_threadsafe(_end, self._future)
        except RuntimeError:  # the loop was closed
            return False
        # It may have been closed since then: either before it woke the task, or after the task had
        # used the connection and left it at rest, for which it needs no lock.
        return not self.loop.is_closed() or self._future.done()

    async def turn(self, seconds: float) -> None:
        """Sleep until it is settled, or `seconds` at most. Being cancelled settles nothing."""
        timer = self.loop.call_later(max(0.0, min(seconds, _FOREVER)), _end, self._future)
        try:
            await self._future
        finally:
            timer.cancel()

    def give_up(self) -> None:
        """End the sleep: its time is up. Called on its loop."""
        _end(self._future)


def _end(future: asyncio.Future[None]) -> None:
    if not future.done():  # it was cancelled, or served in the same moment
        future.set_result(None)


class Caretaker(Protocol):
    """The pool, as far as a round needs to know it."""

    def look_after_tasks(self, waiters: Iterable[TaskWaiter]) -> None: ...


class Round:
    """Looks after those who wait on one loop, some times a second, for as long as there are any.

    Threads do so each on their own; of tasks there may be ten thousand. Used on its loop alone.
    """

    def __init__(self, pool: Caretaker) -> None:
        self._pool = ref(pool)
        self._timer: asyncio.TimerHandle | None = None
        self.waiters: dict[TaskWaiter, None] = {}

    def join(self, waiter: TaskWaiter) -> None:
        """Look after one more."""
        self.waiters[waiter] = None
        if self._timer is None:
            self._timer = waiter.loop.call_later(_ROUND, self._look, waiter.loop)

    def leave(self, waiter: TaskWaiter) -> bool:
        """Look after one less; return whether it was the last."""
        self.waiters.pop(waiter, None)
        if not self.waiters and self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return not self.waiters

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        # First: what a filter of warnings raises goes to the loop's handler of exceptions.
        self._timer = loop.call_later(_ROUND, self._look, loop)
        if (pool := self._pool()) is not None:
            pool.look_after_tasks(list(self.waiters))

"""The pool on one event loop: it begins with its first use there, and ends with the loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any, cast

from django_poolkit.pools.asyncpg.physical import Physical
from django_poolkit.pools.asyncpg.state import Waiter
from django_poolkit.pools.asyncpg.upkeep import Upkeep

if TYPE_CHECKING:
    from django_poolkit.pools.asyncpg.pool import AsyncpgPool


class Line(Upkeep):
    """What a pool has on one event loop. For that loop's thread, but for what says otherwise."""

    def __init__(self, pool: AsyncpgPool) -> None:
        super().__init__(pool)
        self._keeper = self._keep()

    async def open(self) -> None:
        """Begin to keep house, and to listen for the end of the loop."""
        # asyncio.run(), servers, async_to_sync() and test runners end the loop's asynchronous
        # generators before they close it: one that is suspended here hears of it.
        await anext(self._keeper)
        self.keep_house()

    async def _keep(self) -> AsyncGenerator[None]:
        try:
            yield
        finally:
            await self._close()

    async def close(self) -> None:
        """Refuse new acquires, fail those who wait, close what is idle.

        What is leased is closed as it comes home. Takes the pool's `CLOSE_TIMEOUT` at most.
        """
        ended = False
        with suppress(RuntimeError, StopAsyncIteration):  # it is being closed already
            await self._keeper.aclose()
            ended = True
        if not self.closing:  # it was closed before it was opened
            await self._close()
        if self.out and ended:
            # What is still leased may run a statement when the loop ends: to be seen to then.
            self._keeper = self._keep()
            await anext(self._keeper)

    async def _close(self) -> None:
        gone, waiters = self._stop()
        if not self.out:  # else `sweep()` comes for what is still leased when the loop is closed
            self.pool.gone(self)
        self._turn_away(waiters)
        attempts = [attempt.task for attempt in self.connecting if attempt.task is not None]
        for task in attempts:
            task.cancel()
        self.close_soon([(physical, "pool_closed") for physical in gone])
        deadline = monotonic() + self.pool.config.close_timeout
        while (others := self._others()) and (left := deadline - monotonic()) > 0:
            await asyncio.wait(others, timeout=left)  # what ends may begin another

    def _others(self) -> set[asyncio.Task[Any]]:
        """Return what is at work beside the task that runs."""
        me = asyncio.current_task()
        others = {task for task in self.tasks if task is not me}
        for physical in self.out:
            # Requests to cancel what runs: with the loop they would end before they are sent.
            others |= cast(Any, physical.connection)._cancellations
        return others

    def _turn_away(self, waiters: list[Waiter]) -> None:
        for waiter in waiters:
            if not waiter.future.done():
                waiter.future.set_exception(self.closed_error())

    def _stop(self) -> tuple[list[Physical], list[Waiter]]:
        with self.lock:
            self.closing = True
            gone, self.idle = self.idle, []
            waiters = list(self.waiters)
            self.waiters.clear()
            self.ledger.closed["pool_closed"] += len(gone)
        return gone, waiters

    def recycle(self, reason: str = "recycled") -> None:
        """Close what is idle, and connect anew what is wanted."""
        with self.lock:
            gone, self.idle = self.idle, []
            self.ledger.closed[reason] += len(gone)
            starts = self.plan_locked()
        self.close_soon([(physical, reason) for physical in gone])
        self.start_connects(starts)

    def shrink(self) -> None:
        """Close what is idle above the pool's `max_size`, the longest idle first."""
        gone = []
        with self.lock:
            while self.idle and self.size_locked() > self.pool.max_size:
                gone.append((self.idle.pop(0), "resized"))
            self.ledger.closed["resized"] += len(gone)
            starts = self.plan_locked()
        self.close_soon(gone)
        self.start_connects(starts)

    def serve(self) -> None:
        """Serve those who wait, in order, after a pause."""
        with self.lock:
            while self.idle and self.waiters and not self.pool.paused_locked():
                self.give_locked(self.idle.pop(), monotonic())
            starts = self.plan_locked()
        self.start_connects(starts)

    def soon(self, call: Callable[..., object], *args: Any) -> bool:
        """Have something called on the loop, from any thread; return False where it is closed."""
        try:
            self.loop.call_soon_threadsafe(call, *args)
        except RuntimeError:
            return False
        return True

    def abandon(self) -> int:
        """Let go of it without its loop, which is closed; return how many leases ended by that.

        Called by whichever thread finds it. Sockets are closed, leases are void. A loop that only
        stands still may go on: it finds its connections ended, and its waiters turned away.
        """
        with self.lock:
            self.closing = True
            leases = [
                lease
                for lease in self.ledger.leases_locked()
                if getattr(lease, "line", None) is self
            ]
            for lease in leases:
                self.ledger.live.pop(lease.key, None)
                self.ledger.reported.discard(lease.key)
            while self.orphans:  # a finalizer may add to them meanwhile
                key = self.orphans.popleft().key
                self.ledger.leaks += self.ledger.live.pop(key, None) is not None
            held: list[Physical] = [*self.idle, *self.out]
            self.idle, self.out = [], set()
            waiters = list(self.waiters)
            self.connecting.clear()
            self.waiters.clear()
            self.ledger.closed["loop_closed"] += len(held)
        for lease in leases:
            lease.released = True
            if (proxy := lease._connection) is not None:
                proxy._con = None
            lease._connection = None
        self.soon(self._turn_away, waiters)
        for physical in held:
            physical.abandon()
        with suppress(StopAsyncIteration, StopIteration, RuntimeError):
            self._keeper.aclose().send(None)
        return len(leases)

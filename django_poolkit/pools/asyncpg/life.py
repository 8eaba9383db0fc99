"""The ends of a pool: with a loop, for good, and in a forked child."""

from __future__ import annotations

import asyncio
import logging
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import TYPE_CHECKING

from django_poolkit.pools.asyncpg.config import AsyncpgConfig
from django_poolkit.pools.asyncpg.steering import Steering
from django_poolkit.pools.events import Events
from django_poolkit.pools.forks import in_child

if TYPE_CHECKING:
    from django_poolkit.pools.asyncpg.line import Line
    from django_poolkit.pools.asyncpg.listen import Listener

logger = logging.getLogger("django_poolkit.pool")


class Life(Steering):
    """Ends, and begins anew. `AsyncpgPool` is the whole."""

    config: AsyncpgConfig
    events: Events
    ended: bool
    listeners: weakref.WeakSet[Listener]
    _inherited: list[object]
    _begin: Callable[[], None]

    # -- life

    async def close(self) -> None:
        """Close it for good, on all event loops: refuse acquires, fail those who wait.

        Leased connections are closed as they come home. Takes `CLOSE_TIMEOUT` seconds at most.
        """
        own = asyncio.get_running_loop()
        closings = []
        for line in self._end():
            if line.loop is own:
                closings.append(line.close())
            elif (future := self._close_there(line)) is not None:
                closings.append(_bounded(future, self.config.close_timeout))
        await asyncio.gather(*closings)

    def close_from_thread(self, timeout: float) -> None:
        """Close it for good, on all event loops. Blocks for `timeout` seconds at most.

        On a loop that runs in the calling thread it closes with the loop's next turns.
        """
        deadline = time.monotonic() + timeout
        running = asyncio._get_running_loop()
        futures = []
        for line in self._end():
            if line.loop is running:
                line.soon(lambda line=line: line.spawn(line.close()))
            else:
                futures.append(self._close_there(line))
        for future in futures:
            if future is not None:
                with suppress(Exception):
                    future.result(max(0.0, deadline - time.monotonic()))

    def _close_there(self, line: Line) -> Future[None] | None:
        if not line.loop.is_running():
            self.gone(line)
            line.abandon()
            return None
        closing = line.close()
        try:
            return asyncio.run_coroutine_threadsafe(closing, line.loop)
        except RuntimeError:  # the loop ended meanwhile
            closing.close()
            self.gone(line)
            line.abandon()
            return None

    def _end(self) -> list[Line]:
        with self.lock:
            first, self.ended = not self.ended, True
        self.sweep()
        if first:
            logger.info("pool=%s event=close", self.name)
        with self.lock:
            lines, listeners = list(self.lines.values()), list(self.listeners)
        for listener in listeners:
            listener.end_soon()
        return lines

    def forget(self) -> None:
        """Begin anew in a forked child: the parent's connections are not touched.

        Runs while the child has one thread, so without the lock, which may be held for ever by a
        thread that only the parent has.
        """
        # Not to be collected: their finalizers would touch what the parent still uses.
        self._inherited += [self.lines, self.ledger, *self.listeners]
        leases = [lease for ref in list(self.ledger.live.values()) if (lease := ref())]
        for lease in leases:
            self._inherited.append(lease._connection)
            lease.released = True
            lease._connection = None
        self.events.after_fork()
        self._begin()

    def gone(self, line: Line) -> None:
        """Take a line that ends out of the table."""
        with self.lock:
            if self.lines.get(line.loop) is line:
                del self.lines[line.loop]

    def sweep(self) -> None:
        """Let go of what belongs to loops that were closed without a chance to close it."""
        with self.lock:
            dead = [line for loop, line in self.lines.items() if loop.is_closed()]
            for line in dead:
                del self.lines[line.loop]
        for line in dead:
            if leases := line.abandon():
                logger.warning("pool=%s event=loop_closed leases=%d", self.name, leases)


async def _bounded(future: Future[None], seconds: float) -> None:
    with suppress(Exception):
        await asyncio.wait_for(asyncio.wrap_future(future), seconds)


# Added to by each pool as it is made; read in the child, where one thread runs.
_pools: weakref.WeakSet[Life] = weakref.WeakSet()


def register(pool: Life) -> None:
    """Have a pool begin anew in each forked child."""
    _pools.add(pool)


def _after_in_child() -> None:
    for pool in list(_pools):
        pool.forget()


in_child(_after_in_child)

"""What an operator does to a running pool, from any thread: pause, recycle, resize, kill."""

from __future__ import annotations

import asyncio
import logging
import threading
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from django_poolkit.pools.asyncpg.physical import CUT_TIMEOUT
from django_poolkit.pools.sizing import verify_sizes

if TYPE_CHECKING:
    from django_poolkit.pools.asyncpg.line import Line
    from django_poolkit.pools.ledger import Ledger

logger = logging.getLogger("django_poolkit.pool")

# A pause that nobody ends is an outage of one's own making.
PAUSE: Final = 60.0
EARLY: Final = 0.002
"""Seconds by which a timer may come too early: uvloop counts in whole milliseconds, and rounds."""


class Steering:
    """Takes orders. `AsyncpgPool` is the whole."""

    name: str
    lock: threading.Lock
    ledger: Ledger
    lines: dict[asyncio.AbstractEventLoop, Line]
    paused_until: float
    generation: int
    min_size: int
    max_size: int

    def paused_locked(self) -> bool:
        """Return whether nothing is given out at the moment."""
        return bool(self.paused_until) and self.paused_until > monotonic()

    def _lines(self) -> list[Line]:
        with self.lock:
            return list(self.lines.values())

    def pause(self, seconds: float = PAUSE) -> None:
        """Give nothing out until `resume()`, or until `seconds` have passed. Does not block.

        Idle connections are closed, leased ones when they come home, and none is opened. Those
        who acquire wait up to their own timeout, then get PoolPaused. Raises ValueError for a
        time that never ends.
        """
        if not 0 < seconds <= threading.TIMEOUT_MAX:  # nan neither
            raise ValueError(f"seconds must be above 0 and finite; got {seconds!r}")
        with self.lock:
            self.paused_until = monotonic() + seconds
        self.recycle()
        for line in self._lines():
            line.soon(self.end_pause_on, line.loop)

    def open_paused(self, seconds: float) -> None:
        """Begin as one that has been paused for `seconds`: for those told that it is to open."""
        with self.lock:
            if not self.lines:
                self.paused_until = max(self.paused_until, monotonic() + seconds)

    def resume(self) -> None:
        """End a pause: serve those who wait, in order. Does not block."""
        with self.lock:
            self.paused_until = 0.0
        for line in self._lines():
            line.soon(line.serve)

    def end_pause(self) -> None:
        """Resume if the time of the pause is over; a later pause may have prolonged it."""
        if 0 < self.paused_until <= monotonic() + EARLY:
            self.resume()

    def end_pause_on(self, loop: asyncio.AbstractEventLoop) -> None:
        """Have a loop end the pause, in time. Called there."""
        loop.call_later(max(0.0, self.paused_until - monotonic()), self.end_pause)

    def recycle(self) -> None:
        """Replace all connections: idle ones now, leased ones as they come home.

        Does not block.
        """
        with self.lock:
            self.generation += 1
        for line in self._lines():
            line.soon(line.recycle)

    def resize(self, min_size: int, max_size: int | None = None) -> None:
        """Change the sizes, of each event loop. Does not block.

        Leased connections above `max_size` are closed as they come home. Raises ValueError for
        sizes that contradict each other.
        """
        with self.lock:
            self.min_size, self.max_size = self._check_size(min_size, max_size)
        for line in self._lines():
            line.soon(line.shrink)

    def _check_size(self, min_size: int, max_size: int | None) -> tuple[int, int]:
        if max_size is None:
            max_size = max(min_size, self.max_size)
        verify_sizes(min_size, max_size)
        return min_size, max_size

    def kill(self, key: int) -> bool:
        """Take a lease's connection away from its owner; return False if there is no such lease.

        Does not block. The server is asked to cancel what runs, and the connection is closed. The
        owner gets an error of asyncpg's, and ends the lease. `LeaseStats.key` tells the key.
        """
        with self.lock:
            reference = self.ledger.live.get(key)
        lease: Any = None if reference is None else reference()
        if lease is None or lease.physical is None:
            return False
        soon: bool = lease.line.soon(lambda: lease.line.spawn(_cut_off(lease)))
        return soon


async def _cut_off(lease: Any) -> None:
    physical = lease.physical
    if physical is None or physical.connection.is_closed():
        return
    pool, seconds = lease.pool.name, lease.seconds()
    if lease.may_run:
        # Its owner may give it back in this very turn of the loop: not to be lent to anybody.
        lease.cut = True
        await physical.close(CUT_TIMEOUT)
    if lease.physical is physical:  # else it has been given back meanwhile, and is not lent again
        physical.connection.terminate()
    logger.warning("pool=%s event=killed lease=%d seconds=%.1f", pool, lease.key, seconds)

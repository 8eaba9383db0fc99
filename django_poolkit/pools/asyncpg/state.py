"""The state of a pool on one event loop, and what is decided about it.

Locking. One lock of the pool guards the state on all of its loops (`idle`, `out`, `connecting`,
`waiters`) and the ledger that they share. Inside it nothing is awaited, sent or logged. Whatever
hands something out runs on the loop's own thread, so a waiter has one loser: its timeout, its
cancellation or the hand-over, whichever the loop came to first. A connection stands in exactly one
of `idle` and `out`; an attempt to make one in `connecting`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Callable
from itertools import islice
from time import monotonic
from typing import TYPE_CHECKING, Any, Final
from weakref import ref

import asyncpg

from django_poolkit.pools.asyncpg.connection import LeasedConnection
from django_poolkit.pools.asyncpg.errors import PoolClosed, PoolPaused, PoolTimeout
from django_poolkit.pools.asyncpg.lease import AsyncpgLease
from django_poolkit.pools.asyncpg.physical import CUT_TIMEOUT, Physical
from django_poolkit.pools.chance import chance
from django_poolkit.pools.errors import PoolError
from django_poolkit.pools.session_state import CACHE_SIZE, CACHED_LENGTH

if TYPE_CHECKING:
    from django_poolkit.pools.asyncpg.pool import AsyncpgPool

logger = logging.getLogger("django_poolkit.pool")

# Connects at once on a loop: a burst of waiters shall not become one of connects.
GROWTH: Final = 3
# Seconds. Below, a waiter more does not bring a failed connect forward.
_BREATH: Final = 0.05
_SPREAD: Final = 0.25


class Waiter:
    """One place in the queue. Written under the lock of the pool."""

    __slots__ = ("future", "lease", "physical", "since")

    def __init__(self, future: asyncio.Future[None], lease: AsyncpgLease, since: float) -> None:
        self.future = future
        self.lease = lease
        self.since = since
        self.physical: Physical | None = None
        """What it was handed."""


class Attempt:
    """One connect, under way."""

    __slots__ = ("replaces", "since", "task")

    def __init__(self, replaces: Physical | None) -> None:
        self.replaces = replaces
        self.since = monotonic()
        self.task: asyncio.Task[None] | None = None


class State:
    """What the parts of a `Line` share."""

    def __init__(self, pool: AsyncpgPool) -> None:
        self.pool = pool
        self.loop = asyncio.get_running_loop()
        self.lock = pool.lock
        self.ledger = pool.ledger
        self.residue: Callable[[str], str | None] = pool.residue
        self.plain = pool.plain
        self.closing = False
        """Whether nothing is given out here any more."""
        self.idle: list[Physical] = []
        """The last one was used last, and is the next to be."""
        self.out: set[Physical] = set()
        """Those that are leased, and those on their way home."""
        self.connecting: set[Attempt] = set()
        self.waiters: OrderedDict[Waiter, None] = OrderedDict()
        self.orphans: deque[AsyncpgLease] = deque()
        """Leases that were dropped. Needs no lock: finalizers append, the loop empties it."""
        self.tasks: set[asyncio.Task[Any]] = set()
        """What runs on behalf of nobody. Used on the loop's thread alone."""
        self.engines: list[asyncpg.Pool[Any]] = []
        self._failures = 0
        self._failed_at = 0.0
        self._told_full = False

    def remember_plain(self, query: str) -> None:
        """Take note that a text leaves nothing behind, for as long as there is room for it."""
        if len(query) <= CACHED_LENGTH:
            if len(self.plain) >= CACHE_SIZE:
                self.plain.clear()
            self.plain.add(query)

    # -- under the lock

    def size_locked(self) -> int:
        """Return how many connections there are, and will be."""
        return len(self.idle) + len(self.out) + len(self.connecting)

    def lend_locked(self, lease: AsyncpgLease, physical: Physical, now: float) -> None:
        """Enter a lease that begins."""
        self.out.add(physical)
        lease.physical = physical
        connection = LeasedConnection(
            physical.holder, physical.connection, ref(lease), self.loop, self.pool.name
        )
        self.ledger.lend_locked(lease, connection, now)

    def give_locked(self, physical: Physical, now: float) -> None:
        """Hand a connection to the first who waits, or let it be idle."""
        self.out.discard(physical)
        while self.waiters and not self.pool.paused_locked():
            waiter, _ = self.waiters.popitem(last=False)
            if waiter.future.done():  # cancelled, and had no turn yet to say so
                continue
            self.lend_locked(waiter.lease, physical, now)
            waiter.physical = physical
            self.ledger.waited += 1
            self.ledger.wait.observe(now - waiter.since)
            waiter.future.set_result(None)
            return
        self.idle.append(physical)

    def stale_locked(self, physical: Physical, now: float) -> str | None:
        """Return why a connection that comes home is closed, None where it is kept."""
        pool = self.pool
        if self.closing or pool.ended:
            return "pool_closed"
        if physical.connection.is_closed():
            return "broken"
        if physical.generation != pool.generation:
            return "recycled"
        if pool.paused_locked():
            return "recycled"
        if now >= physical.expires_at:
            return "max_lifetime"
        if physical.connection._protocol.queries_count >= pool.config.max_queries:
            return "max_queries"
        if self.size_locked() > pool.max_size:
            return "resized"
        return None

    def plan_locked(self, *, urged: bool = False) -> int:
        """Return how many connects are to be started. `urged` by a waiter who has just come."""
        pool, now = self.pool, monotonic()
        if self.closing or pool.ended or pool.paused_locked():
            return 0
        # No more of them than could matter: thousands may wait, and each who comes asks this.
        there = (waiter for waiter in self.waiters if not waiter.future.done())
        waiting = sum(1 for _ in islice(there, GROWTH))
        short = max(waiting, pool.min_size - self.size_locked() + len(self.connecting))
        wanted = min(short, GROWTH) - len(self.connecting)
        wanted = min(wanted, pool.max_size - self.size_locked())
        if self._failures:
            # One at a time, until one is made; the retry's own timer comes by after a pause.
            due = now - self._failed_at >= (_BREATH if urged else self.pause())
            wanted = min(wanted, 1 if due and not self.connecting else 0)
        return max(0, wanted)

    def pause(self) -> float:
        """Return the seconds between the last failed connect and the next."""
        cap = self.pool.config.reconnect_cap
        return float(min(cap, 0.1 * 2 ** min(self._failures - 1, 10)))

    def lifetime(self) -> float:
        """Return how long a new connection may live, in seconds."""
        return float(self.pool.config.max_lifetime * (1 - chance.uniform(0, _SPREAD)))

    def timed_out_locked(
        self, started: float, allowed: float, what: str | None = None
    ) -> PoolError:
        """Return the error of a caller whose time is up, and count it.

        `what` has not come about; None for a connection, which there is not in a pause.
        """
        now, pool = monotonic(), self.pool
        self.ledger.timeouts += 1
        stats = pool.stats_locked(now)
        kind, why = PoolTimeout, f"{what or 'no connection'} within {allowed:.2f} s"
        if what is None and pool.paused_locked():
            kind, why = PoolPaused, f"paused, and not resumed within {allowed:.2f} s"
        text = f"pool {pool.name!r}: {why} ({stats.summary()})"
        since = min((attempt.since for attempt in self.connecting), default=now)
        if now - since >= 1.0:
            text += f"; a connect has had no answer for {now - since:.1f} s"
        error = kind(text, pool=pool.name, stats=stats)
        if isinstance(error, PoolTimeout):
            error.waited = now - started
        return error

    def closed_error(self) -> PoolClosed:
        """Return what is said to those who come too late."""
        return PoolClosed(f"pool {self.pool.name!r} is closed", pool=self.pool.name)

    # -- closing, outside of the lock

    def spawn(self, work: Any) -> asyncio.Task[Any]:
        """Run a coroutine on the loop that nobody need wait for."""
        task = self.loop.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    def spawn_for(self, physical: Physical, work: Any) -> asyncio.Task[Any]:
        """Run a coroutine that brings a connection home, or closes it.

        The end of a loop cancels tasks also before their first step, where they can see to nothing.
        """
        task = self.spawn(work)
        task.add_done_callback(lambda task: self._undone(physical) if task.cancelled() else None)
        return task

    def _undone(self, physical: Physical) -> None:
        with self.lock:
            if lost := physical in self.out:
                self.out.discard(physical)
                self.ledger.closed["reset_failed"] += 1
        if lost:
            self.said_closed(physical, "reset_failed")
            self.spawn(physical.stop(CUT_TIMEOUT))
        physical.connection.terminate()

    def close_soon(self, gone: list[tuple[Physical, str]]) -> None:
        """Say goodbye to connections that have left the pool, in the background."""
        for physical, reason in gone:
            self.said_closed(physical, reason)
            if physical.connection.is_closed():
                physical.connection.terminate()  # asyncpg's own bookkeeping
            else:
                self.spawn_for(physical, self.close_one(physical))

    async def close_one(self, physical: Physical) -> None:
        """Close a connection properly, or at least its socket."""
        try:
            async with asyncio.timeout(self.pool.config.close_timeout):
                await physical.connection.close()
        except (Exception, asyncio.CancelledError):
            physical.connection.terminate()

    def terminate(self, physical: Physical, reason: str) -> None:
        """Close the socket of a connection at once."""
        self.said_closed(physical, reason)
        physical.connection.terminate()

    def said_closed(self, physical: Physical, reason: str) -> None:
        """Tell of a connection that is closed."""
        logger.info("pool=%s event=closed reason=%s", self.pool.name, reason)
        self.pool.events.tell("connection_closed", pool=self.pool.name, reason=reason)

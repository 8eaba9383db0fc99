"""Acquire and release: the way out of the pool and the way home.

Locking. `_lock` guards `_pool` (the idle ones), `_waiting`, `_growth`, `_ledger`, the sizes
and the state. Inside it nothing blocks, sends or logs: what is to be done is decided there,
and done after. The size is not kept but counted: a connection stands in exactly one of idle,
live leases and attempts, so that no interruption can make the sum drift.

A finalizer may run at any bytecode, inside the lock of the same thread too, where the state
is half changed. So `_inside` names the thread that is in there: what a finalizer gives back
then goes to `_orphans`, which everyone who passes clears.
"""

from __future__ import annotations

import _thread
import logging
import re
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any, Final, Literal

from django_poolkit.pools.config import PoolConfig
from django_poolkit.pools.errors import PoolError, PoolWarning
from django_poolkit.pools.lease import Lease, Stack, capture_stack, format_stack
from django_poolkit.pools.postgres import probe, reset
from django_poolkit.pools.postgres.connection import PoolConnection, no_lease
from django_poolkit.pools.postgres.cursor import text_of
from django_poolkit.pools.postgres.errors import (
    LeaseReleased,
    PoolPaused,
    PoolTimeout,
    TooManyWaiters,
)
from django_poolkit.pools.postgres.growth import Attempt, Growth
from django_poolkit.pools.postgres.shell import Job, Shell
from django_poolkit.pools.postgres.waiters import ThreadWaiter, Waiters
from django_poolkit.pools.session_state import StatementRules
from django_poolkit.pools.stats import PoolStats

logger = logging.getLogger("django_poolkit.pool")

# A waiter looks this often, in seconds, whether a finalizer left something for it.
_ORPHAN_ROUND: Final = 0.25


# Statements that write nothing. Those of _OPAQUE may write behind a name.
_READS: Final = re.compile(
    r"[\s(]*(select|show|explain|fetch|move|declare|close|values|table|set|reset|listen|unlisten"
    r"|begin|start|savepoint|release|rollback|commit|end|abort|discard|deallocate|lock"
    r"|with(?!.*\b(insert|update|delete|merge)\b))\b",
    re.IGNORECASE | re.DOTALL,
)
_OPAQUE: Final = ("function", "call", "do", "execute", "unparsed")


class Exchange(Shell):
    """Gives connections out and takes them home. `ConnectionPool` is the whole."""

    config: PoolConfig
    aliases: tuple[str, ...]
    foreign_statement: Callable[[], bool]
    _waiting: Waiters  # type: ignore[assignment]
    _growth: Growth
    _rules: StatementRules
    _orphans: deque[tuple[Lease, Literal["leak", "release", "discard"]]]
    _inside: int
    _generation: int
    _paused_until: float

    # -- acquire

    def acquire(self, timeout: float | None = None, *, stack: Stack | None = None) -> Lease:
        """Acquire a connection and return its lease.

        Blocks the calling thread for `timeout` seconds at most, the pool's own timeout where
        it is None. Raises PoolTimeout, PoolPaused, TooManyWaiters or PoolClosed.
        """
        if self._inside == _thread.get_ident():
            raise PoolError(
                f"pool {self.name!r}: a finalizer tried to acquire a connection while its "
                "thread was inside the pool; finalizers cannot wait",
                pool=self.name,
            )
        started = monotonic()
        allowed = self.timeout if timeout is None else timeout
        lease = Lease(self, self._ledger.new_key(), stack or capture_stack())
        again = False
        try:
            while True:
                connection = self._take(lease, started, allowed, again)
                silent = self._unusable(connection, started + allowed)
                if silent is None:
                    return lease
                self._evict(lease, connection, silent=silent)
                again = True
        except BaseException:
            # An interrupt between the hand-over and this frame's end, or a failing check.
            if lease.connection is not None and not lease.released:
                self.discard(lease)
            raise

    @contextmanager
    def lease(self, timeout: float | None = None) -> Iterator[Any]:
        """Acquire a connection for the length of a `with` block.

        As with psycopg's own connections, the block's transaction is committed at its end,
        rolled back on an exception. Blocks and raises as `acquire()`.
        """
        lease = self.acquire(timeout)
        try:
            with lease.connection as connection:
                yield connection
        finally:
            if not lease.released:
                lease.release()

    connection = lease

    def getconn(self, timeout: float | None = None) -> PoolConnection:
        """Acquire a connection as psycopg_pool does, to be given back with `putconn()`.

        One that is dropped instead is closed, and its slot freed.
        """
        lease = self.acquire(timeout)
        connection: PoolConnection = lease.connection
        # The caller holds the connection and nothing else: so it owns the lease, not the
        # other way round, or neither would ever be missed.
        connection._owned_lease = lease
        lease._connection = weakref.ref(connection)
        return connection

    def putconn(self, conn: PoolConnection) -> None:
        """Give back what `getconn()` gave. Raises ValueError for a connection not leased."""
        self._check_pool_putconn(conn)
        lease = conn._owned_lease or conn._lease_ref()
        if lease is None:
            raise ValueError(f"can't return connection to pool {self.name!r}: it is not leased")
        conn._owned_lease = None
        lease._connection = conn
        self.release(lease)

    def _take(self, lease: Lease, started: float, allowed: float, again: bool) -> PoolConnection:
        """Return an idle connection, or one that came while queued. Lent, but not yet probed."""
        if self._closed:
            self.open()
        if self._orphans:
            self._adopt_orphans()
        starts: list[Attempt] = []
        with self._lock:
            self._inside = _thread.get_ident()
            try:
                self._check_open_getconn()
                if self._pool and not self._paused_until and (again or not self._waiting):
                    connection: PoolConnection = self._pool.pop()
                    self._lend_locked(lease, connection, monotonic())
                    return connection
                waiter = self._queue_locked(lease, started, allowed, again)
                starts = self._plan_locked()
            finally:
                self._inside = 0
        try:
            self._start(starts)
            while not waiter.settled and (left := started + allowed - monotonic()) > 0:
                waiter.wait(min(left, _ORPHAN_ROUND))
                if self._orphans:
                    self._adopt_orphans()
        finally:
            # On an interrupt too: what was handed over dies with the lease, and comes back.
            with self._lock:
                self._waiting.remove(waiter)
                if not waiter.settled:
                    waiter.error = self._timed_out_locked(started, allowed)
        if waiter.error is not None:
            raise waiter.error
        return waiter.connection  # type: ignore[no-any-return]

    def _queue_locked(
        self, lease: Lease, started: float, allowed: float, again: bool
    ) -> ThreadWaiter:
        waiter = ThreadWaiter(lease)
        if again:
            self._waiting.append_first(waiter)
            return waiter
        if allowed <= 0:
            raise self._timed_out_locked(started, allowed)
        if self.max_waiting and len(self._waiting) >= self.max_waiting:
            self._ledger.too_many_waiters += 1
            stats = self._stats_locked(monotonic())
            raise TooManyWaiters(
                f"pool {self.name!r}: {len(self._waiting)} are waiting already, which is its "
                f"max_waiting ({stats.summary()})",
                pool=self.name,
                stats=stats,
            )
        self._waiting.append(waiter)
        return waiter

    def _timed_out_locked(self, started: float, allowed: float) -> PoolError:
        now = monotonic()
        self._ledger.timeouts += 1
        stats = self._stats_locked(now)
        kind, why = PoolTimeout, f"no connection within {allowed:.2f} s"
        if self._paused_until:
            kind, why = PoolPaused, f"paused, and not resumed within {allowed:.2f} s"  # type: ignore[assignment]
        text = f"pool {self.name!r}: {why} ({stats.summary()})"
        if pending := self._growth.pending(now):
            text += f"; a connect has had no answer for {pending:.1f} s"
        error = kind(text, pool=self.name, stats=stats)
        if isinstance(error, PoolTimeout):
            error.waited = now - started
        return error

    def _unusable(self, connection: PoolConnection, deadline: float) -> bool | None:
        """Return None for a connection that lives; else whether it was silent, not dead."""
        left = deadline - monotonic()
        timeout = min(self.config.probe_timeout, max(left, probe.SHORTEST))
        found = probe.look(connection, bypass=self.config.bypass, timeout=timeout)
        if found is not probe.State.ALIVE:
            return found is probe.State.SILENT
        if self._check is not None:
            try:
                self._check(connection)
            except Exception as error:
                logger.info("pool=%s event=check_failed error=%s", self.name, type(error).__name__)
                return False
        return None

    # -- release

    def release(self, lease: Lease) -> None:
        """Give a connection back.

        Rolls back what is open, and resets the session where `reset` asks for it; blocks for
        that round trip only. Raises LeaseReleased where it has been given back already.
        """
        if self._inside == _thread.get_ident():
            self._orphans.append((lease, "release"))
            return
        connection = lease.connection
        if lease.released or connection is None:
            raise LeaseReleased(f"this lease of pool {self.name!r} has been released already")
        reason = reset.hopeless(connection)
        full = reason is None and reset.due(lease, connection, self.config.reset)
        if reason is None and not full and reset.at_rest(connection):
            if self.config.reset_callback is None:
                connection._baseline.restore(connection)
                self._settle(lease, connection, None)
                return
        self._claim(lease)
        try:
            if reason is None:
                reason = self._clean(connection, full=full)
        except BaseException:
            self._settle(lease, connection, "interrupted")
            raise
        self._settle(lease, connection, reason)

    def discard(self, lease: Lease) -> None:
        """Give the slot back and close the connection. Raises LeaseReleased, as `release()`."""
        if self._inside == _thread.get_ident():
            self._orphans.append((lease, "discard"))
            return
        connection = lease.connection
        self._claim(lease)
        self._settle(lease, connection, "discarded")

    def lost(self, lease: Lease) -> None:
        """Take note of a lease that was dropped. Called by its finalizer, on any thread."""
        self._orphans.append((lease, "leak"))

    def note_statement(self, lease: Lease, query: Any, connection: PoolConnection) -> None:
        """Take note of a statement about to run: what may it leave behind, and whose is it?"""
        if not lease.foreign and self.config.reset == "request":
            lease.foreign = self.foreign_statement()
        if lease.dirty is not None and lease.committed:
            return
        text = text_of(query, connection)
        residue = self._rules.residue(text) if text is not None else "unparsed"
        if residue is not None:
            lease.mark_dirty(residue)
        if residue in _OPAQUE or text is None or not _READS.match(text):
            if connection._autocommit and reset.at_rest(connection):
                lease.committed = True
            else:
                lease.wrote = True

    def _claim(self, lease: Lease) -> None:
        with self._lock:
            if lease.released:
                raise LeaseReleased(f"this lease of pool {self.name!r} has been released already")
            lease.released = True

    def _clean(self, connection: PoolConnection, *, full: bool) -> str | None:
        """Bring the connection to rest; return the reason to close it where that failed."""
        if full or not reset.at_rest(connection):
            if not full:
                logger.warning("pool=%s event=rollback reason=open_transaction", self.name)
            if not reset.clean(connection, full=full):
                return "reset_failed"
        connection._baseline.restore(connection)
        if full:
            connection._baseline.read_parameters(connection)
            with self._lock:
                self._ledger.resets += 1
        if self.config.reset_callback is not None:
            try:
                self.config.reset_callback(connection)
            except Exception as error:
                logger.warning("pool=%s event=reset_failed error=%s", self.name, type(error).__name__)
                return "reset_failed"
        return None if reset.at_rest(connection) else "reset_failed"

    def _settle(self, lease: Lease, connection: Any, reason: str | None) -> None:
        """End a lease: its connection goes to a waiter, to idle, or, with a reason, away."""
        starts: list[Attempt] = []
        with self._lock:
            self._inside = _thread.get_ident()
            try:
                now = monotonic()
                if not self._ledger.settle_locked(lease, now):
                    raise LeaseReleased(f"this lease of pool {self.name!r} has ended already")
                lease.released = True
                lease._connection = None
                if connection is not None:
                    self._park(connection)
                    reason = reason or self._stale_locked(connection, now)
                if reason is None:
                    connection._used_at = now
                    self._give_locked(connection, now)
                else:
                    self._ledger.closed[reason] += 1
                    starts = self._plan_locked()
            finally:
                self._inside = 0
        if reason is not None and connection is not None:
            self._close_connection(connection)
        self._start(starts)

    # -- what both ends share; all under the lock

    def _lend_locked(self, lease: Lease, connection: PoolConnection, now: float) -> None:
        connection._parked = False
        connection._pool = self
        connection._lease_ref = weakref.ref(lease)
        self._ledger.lend_locked(lease, connection, now)

    def _park(self, connection: PoolConnection) -> None:
        connection._parked = True
        connection._pool = None  # as psycopg_pool does, against a reference cycle
        connection._lease_ref = no_lease
        connection._owned_lease = None

    def _give_locked(self, connection: PoolConnection, now: float) -> None:
        """Hand the connection to the first waiter; where there is none, it becomes idle."""
        if self._waiting and not self._paused_until:
            waiter = self._waiting.serve(connection)
            if waiter is not None:
                self._lend_locked(waiter.lease, connection, now)
                self._ledger.waited += 1
                self._ledger.wait.observe(now - waiter.since)
                return
        self._pool.append(connection)
        if self._pool_full_event is not None and len(self._pool) >= self._min_size:
            self._pool_full_event.set()

    def _stale_locked(self, connection: PoolConnection, now: float) -> str | None:
        if self._closed:
            return "pool_closed"
        if connection._generation != self._generation:
            return "recycled"
        if connection._expire_at <= now:
            return "max_lifetime"
        # Its own lease is struck out already, so the size is that of the others.
        return "resized" if self._size_locked() >= self._max_size else None

    def _size_locked(self) -> int:
        return len(self._pool) + len(self._ledger.live) + len(self._growth)

    def _plan_locked(self) -> list[Attempt]:
        """Return the connects to start now: what `min_size` lacks, and what waiters need."""
        if self._closed:
            return []
        starts = self._growth.add(max(0, self._min_size - self._size_locked()))
        if self._waiting and not self._paused_until:
            room = self._max_size - self._size_locked()
            starts += self._growth.plan(waiters=len(self._waiting), room=room)
        return starts

    def _start(self, attempts: list[Attempt]) -> None:
        for attempt in attempts:
            self.run_task(Job(self, "run_attempt", attempt))

    def _evict(self, lease: Lease, connection: PoolConnection, *, silent: bool) -> None:
        """Drop a connection found dead before its first use, and its like among the idle."""
        with self._lock:
            self._inside = _thread.get_ident()
            try:
                self._ledger.revoke_locked(lease)
                gone = [connection]
                self._park(connection)
                for other in list(self._pool):
                    # Silence is the network's: what was last heard of before it began is
                    # as silent. Death shows at each socket, at no cost.
                    dead = other._used_at <= connection._used_at if silent else not probe.quiet(other)
                    if dead:
                        self._pool.remove(other)
                        gone.append(other)
                self._ledger.closed["silent" if silent else "dead"] += len(gone)
                starts = self._plan_locked()
            finally:
                self._inside = 0
        logger.warning(
            "pool=%s event=evicted count=%d reason=%s",
            self.name, len(gone), "silent" if silent else "dead",
        )  # fmt: skip
        for each in gone:
            self._close_connection(each)
        self._start(starts)

    def _adopt_orphans(self) -> None:
        """Take back what finalizers could only report."""
        while self._orphans:
            try:
                lease, cause = self._orphans.popleft()
            except IndexError:  # another thread was faster
                return
            if lease.released:
                continue
            connection = lease.connection
            if cause == "leak":
                with self._lock:
                    self._ledger.leaks += 1
                self._warn_of_leak(lease)
            if connection is None:  # it died with its owner, and closed itself
                self._claim(lease)
                self._settle(lease, None, "lost")
            elif cause == "discard":
                self.discard(lease)
            else:
                self.release(lease)

    def _warn_of_leak(self, lease: Lease) -> None:
        where = "\n  ".join(format_stack(lease.stack))
        warnings.warn(
            f"pool {self.name!r}: a lease was dropped without being released, after "
            f"{lease.seconds():.1f} s in thread {lease.thread!r}. It has been taken back. "
            f"It was acquired at:\n  {where}",
            PoolWarning,
            stacklevel=3,
        )
        self._ledger.tell("leak", pool=self.name, thread=lease.thread, seconds=lease.seconds())

    def _stats_locked(self, now: float) -> PoolStats:
        ledger = self._ledger
        state = "closed" if self._closed and self._opened else "paused" if self._paused_until else "open"
        return PoolStats(
            name=self.name,
            aliases=self.aliases,
            state=state,
            min_size=self._min_size,
            max_size=self._max_size,
            size=self._size_locked(),
            idle=len(self._pool),
            used=len(ledger.live),
            connecting=len(self._growth),
            waiters=len(self._waiting),
            oldest_waiter=self._waiting.oldest(now),
            oldest_lease=ledger.oldest_locked(now),
            acquired=ledger.acquired,
            waited=ledger.waited,
            timeouts=ledger.timeouts,
            too_many_waiters=ledger.too_many_waiters,
            connects=ledger.connects,
            connect_errors=ledger.connect_errors,
            closed=dict(ledger.closed),
            resets=ledger.resets,
            leaks=ledger.leaks,
            last_connect_error=ledger.last_connect_error,
            wait=ledger.wait.snapshot(),
            use=ledger.use.snapshot(),
            connect=ledger.connect.snapshot(),
        )

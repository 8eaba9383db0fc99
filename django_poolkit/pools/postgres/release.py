"""Release: the way home, and what both ways share.

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
import sys
import warnings
import weakref
from collections import deque
from time import monotonic
from typing import Any, Literal

from django_poolkit.pools.config import PoolConfig
from django_poolkit.pools.errors import PoolWarning
from django_poolkit.pools.lease import Lease, format_stack
from django_poolkit.pools.postgres import reset
from django_poolkit.pools.postgres.connection import PoolConnection, no_lease
from django_poolkit.pools.postgres.errors import LeaseReleased
from django_poolkit.pools.postgres.growth import Attempt, Growth
from django_poolkit.pools.postgres.shell import Job, Shell, critical
from django_poolkit.pools.postgres.statements import Statements
from django_poolkit.pools.postgres.waiters import Waiters
from django_poolkit.pools.stats import PoolStats

logger = logging.getLogger("django_poolkit.pool")


class Release(Shell):
    """Takes connections home. `ConnectionPool` is the whole."""

    config: PoolConfig
    aliases: tuple[str, ...]
    statements: Statements
    """What is taken note of as a statement begins."""
    _waiting: Waiters  # type: ignore[assignment]
    _growth: Growth
    _orphans: deque[tuple[Lease, Literal["leak", "release", "discard"]]]
    _generation: int
    _paused_until: float

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
        idle = reason is None and not full and reset.at_rest(connection)
        if idle and self.config.reset_callback is None:
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
        # Whoever passes takes it back, but nobody passes a closed pool any more. A finalizer
        # cannot wait for the lock; where it is taken, that is somebody who passes.
        outside = self._closed and self._inside != _thread.get_ident()
        if outside and self._lock.acquire(blocking=False):
            self._lock.release()
            self._adopt_orphans()

    @critical
    def _claim(self, lease: Lease) -> None:
        if lease.released:
            raise LeaseReleased(f"this lease of pool {self.name!r} has been released already")
        lease.released = True

    @critical
    def _count_reset(self) -> None:
        self._ledger.resets += 1

    @critical
    def _count_closed(self, reason: str) -> None:
        self._ledger.closed[reason] += 1

    @critical
    def _count_leak(self) -> None:
        self._ledger.leaks += 1

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
            self._count_reset()
        if self.config.reset_callback is not None:
            connection._lease_ref = no_lease  # its lease has ended, and would refuse
            try:
                self.config.reset_callback(connection)
            except Exception as error:
                logger.warning(
                    "pool=%s event=reset_failed error=%s", self.name, type(error).__name__
                )
                return "reset_failed"
        return None if reset.at_rest(connection) else "reset_failed"

    def _settle(self, lease: Lease, connection: Any, reason: str | None) -> None:
        """End a lease: its connection goes to a waiter, to idle, or, with a reason, away."""
        reason, starts = self._end_lease(lease, connection, reason)
        if reason is not None and connection is not None:
            self._close_connection(connection)
        if starts:
            self._start(starts)

    @critical
    def _end_lease(
        self, lease: Lease, connection: PoolConnection | None, reason: str | None
    ) -> tuple[str | None, list[Attempt]]:
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
                return None, []
        assert reason is not None
        self._ledger.closed[reason] += 1
        return reason, self._plan_locked()

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
        while self._waiting and not self._paused_until:
            waiter = self._waiting.popleft()
            # Lent first: the waiter may run the moment it has been set.
            self._lend_locked(waiter.lease, connection, now)
            if waiter.set(connection):
                self._ledger.waited += 1
                self._ledger.wait.observe(now - waiter.since)
                return
            self._ledger.revoke_locked(waiter.lease)
            self._park(connection)
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

    # -- what comes home by other ways

    def _start(self, attempts: list[Attempt]) -> None:
        for attempt in attempts:
            self.run_task(Job(self, "run_attempt", attempt))

    def _adopt_orphans(self) -> None:
        """Take back what finalizers could only report, and warn of what was leaked."""
        leaked = []
        while self._orphans:
            try:
                lease, cause = self._orphans.popleft()
            except IndexError:  # another thread was faster
                break
            if lease.released:
                continue
            if cause == "leak":
                leaked.append((lease, lease.seconds()))
                self._count_leak()
            try:
                self._adopt(lease, cause)
            except LeaseReleased:
                # An interrupt hit `_end_lease` half way: the ledger knows the lease no more,
                # and nobody else its connection.
                self._forsake(lease)
            except BaseException:
                if not lease.released:  # a finalizer runs once: nobody would report it again
                    self._orphans.append((lease, cause))
                raise
        # Last, because a filter may turn a warning into an exception.
        for lease, seconds in leaked:
            self._warn_of_leak(lease, seconds)

    def _adopt(self, lease: Lease, cause: str) -> None:
        if lease.connection is None:  # it died with its owner, and closed itself
            self._claim(lease)
            self._settle(lease, None, "lost")
        elif cause == "discard" or self._closed:
            self.discard(lease)
        else:
            self.release(lease)

    def _forsake(self, lease: Lease) -> None:
        connection = lease.connection
        lease.released = True
        if connection is not None:
            self._count_closed("interrupted")
            self._close_connection(connection)

    def _warn_of_leak(self, lease: Lease, seconds: float) -> None:
        if sys.is_finalizing():
            return  # a script that ends with its lease has done nothing wrong
        self._ledger.tell("leak", pool=self.name, thread=lease.thread, seconds=seconds)
        where = "\n  ".join(format_stack(lease.stack))
        warnings.warn(
            f"pool {self.name!r}: a lease was dropped without being released, after "
            f"{seconds:.1f} s in thread {lease.thread!r}. It has been taken back. "
            f"It was acquired at:\n  {where}",
            PoolWarning,
            stacklevel=3,
        )

    def _stats_locked(self, now: float) -> PoolStats:
        ledger = self._ledger
        state = (
            "closed"
            if self._closed and self._opened
            else "paused"
            if self._paused_until
            else "open"
        )
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

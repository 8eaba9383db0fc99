"""Release: the way home, by whichever way it comes."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from _thread import get_ident
from collections import deque
from contextlib import suppress
from time import monotonic
from typing import Any, Final

from django_poolkit.pools.errors import PoolWarning, SessionStateLeft
from django_poolkit.pools.lease import Lease, acquired_at
from django_poolkit.pools.ledger import describe
from django_poolkit.pools.postgres import reset, verify
from django_poolkit.pools.postgres.cleaning import Cleaning
from django_poolkit.pools.postgres.connection import PoolConnection, attributes, no_lease
from django_poolkit.pools.postgres.errors import LeaseReleased
from django_poolkit.pools.postgres.growth import Attempt
from django_poolkit.pools.postgres.shell import Job, critical
from django_poolkit.pools.postgres.state import Orphan

logger = logging.getLogger("django_poolkit.pool")

_NONE: Final[deque[Any]] = deque()


class Release(Cleaning):
    """Takes connections home. `ConnectionPool` is the whole."""

    def release(self, lease: Lease) -> None:
        """Give a connection back.

        Rolls back what is open, and resets the session where `reset` asks for it; blocks for
        that round trip only. Raises LeaseReleased where it has been given back already, and
        SessionStateLeft as `verify_state` asks for it.
        """
        if self._inside == get_ident():
            self._orphans.append((lease, "release"))
            return
        connection = lease.connection
        if lease.released or connection is None:
            raise LeaseReleased(f"this lease of pool {self.name!r} has been released already")
        reason = "pool_closed" if self._closed else reset.hopeless(connection, lease)
        full = reason is None and reset.due(lease, connection, self.config.reset)
        idle = reason is None and not full and reset.at_rest(connection)
        # What a reset clears away reaches nobody.
        verifies = self.config.verify_state and not full
        if idle and self.config.reset_callback is None and not verifies:
            connection._baseline.restore(connection)
            self._settle(lease, connection, None)
            return
        left: tuple[str, ...] = ()
        self._claim(lease)
        try:
            if reason is None:
                reason = self._clean(lease, connection, full=full)
            if reason is None and verifies:
                reason, left = self._verify(lease, connection)
        except BaseException:
            self._settle(lease, connection, "interrupted")
            raise
        self._settle(lease, connection, reason)
        if left:
            raise verify.error(self.name, left)

    def release_idle(self, lease: Lease) -> None:
        """Give back a connection of which the owner has just seen that it is as it was.

        The short way home, for a lease of one statement. Raises as `release()`.
        """
        config = self.config
        if (
            lease.dirty is not None
            or lease.holds
            or config.reset != "dirty"
            or config.reset_callback is not None
            or config.verify_state
            or self._closed
            or self._inside == get_ident()
            or (connection := lease._connection) is None
        ):
            self.release(lease)
            return
        baseline = connection._baseline
        if attributes(connection) != baseline.attributes or connection._notifies_backlog != _NONE:
            baseline.restore(connection)
        ledger = self._ledger
        with self._lock:
            # As `_settle()` does it where nobody waits and the connection is to stay.
            before, self._inside = self._inside, get_ident()
            try:
                now = monotonic()
                live = ledger.live
                settled = (
                    not (self._closed or self._waiting.queue or ledger.reported)
                    and connection._generation == self._generation
                    and connection._expire_at > now
                    and len(self._pool) + len(live) + len(self._growth.attempts) <= self._max_size
                    and self._pool_full_event is None
                    and live.pop(lease.key, None) is not None
                )
                if settled:
                    ledger.use.observe(now - lease.since)
                    lease.released = True
                    lease._connection = None
                    connection._parked = True
                    connection._pool = connection._owned_lease = None
                    connection._lease_ref = no_lease
                    connection._used_at = connection._idle_since = now
                    self._pool.append(connection)
            finally:
                self._inside = before
        if not settled:
            self._settle(lease, connection, None)
        elif self.events.of_leases:
            self.events.tell("lease_released", pool=self.name, seconds=lease.seconds())

    def discard(self, lease: Lease) -> None:
        """Give the slot back and close the connection. Raises LeaseReleased, as `release()`."""
        if self._inside == get_ident():
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
        # Nor is it for a forked child to say farewell: it loses the other threads of its parent
        # with their leases before `forget()` is called.
        outside = self._inside != get_ident() and self._pid == os.getpid()
        if self._closed and outside and self._lock.acquire(blocking=False):
            self._lock.release()
            self._adopt_orphans()

    def adrift(self, lease: Lease) -> None:
        """Have a passer-by give back a lease that may be idle. Called by finalizers."""
        self._orphans.append((lease, "idle"))

    def count_pin(self, reason: str) -> None:
        """Count a lease that is held until its keeper closes, by the reason."""
        self._count_pin(str(reason))  # an enumeration's member would print as one
        self.events.tell("pin", pool=self.name, reason=str(reason))

    @critical
    def _count_pin(self, reason: str) -> None:
        self._ledger.pins[reason] += 1

    def _close_for(self, connection: PoolConnection, reason: str) -> None:
        """Close a connection that has been counted out for `reason`."""
        self._close_connection(connection)
        self.events.tell("connection_closed", pool=self.name, reason=reason)

    @critical
    def _claim(self, lease: Lease) -> None:
        if lease.released:
            raise LeaseReleased(f"this lease of pool {self.name!r} has been released already")
        lease.released = True

    @critical
    def _count_closed(self, reason: str) -> None:
        self._ledger.closed[reason] += 1

    @critical
    def _count_leaks(self, count: int) -> None:
        self._ledger.leaks += count

    def _settle(self, lease: Lease, connection: Any, reason: str | None) -> None:
        """End a lease: its connection goes to a waiter, to idle, or, with a reason, away."""
        with self._lock:
            # As `critical` does it, without its price.
            before, self._inside = self._inside, get_ident()
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
                    connection._used_at = connection._idle_since = now
                    self._give_locked(connection, now)
                    starts = []
                else:
                    self._ledger.closed[reason] += 1
                    starts = self._plan_locked()
            finally:
                self._inside = before
        if self.statements.recorder is not None:
            self.statements.recorder.end(lease)
        if reason is not None and connection is not None:
            self._close_for(connection, reason)
        if starts:
            self._start(starts)
        if lease.overdue:
            self._say_returned(lease)
        if self.events.of_leases:
            self.events.tell("lease_released", pool=self.name, seconds=lease.seconds())

    def _say_returned(self, lease: Lease) -> None:
        seconds = lease.seconds()
        logger.info(
            "pool=%s event=overdue_returned seconds=%.1f thread=%s lease=%d",
            self.name, seconds, lease.thread, lease.key,
        )  # fmt: skip
        self.events.tell("lease_returned", pool=self.name, seconds=seconds, thread=lease.thread)

    # -- what comes home by other ways

    def _start(self, attempts: list[Attempt]) -> None:
        for attempt in attempts:
            try:
                self.run_task(Job(self, "run_attempt", attempt))
            except RuntimeError as error:
                self._strike(attempt)
                logger.warning("pool=%s event=no_thread error=%s", self.name, error)

    @critical
    def _strike(self, attempt: Attempt) -> None:
        self._growth.attempts.discard(attempt)

    def adopt_orphans(self) -> None:
        """Take back what finalizers could only report. Blocks for the resets it takes."""
        self._adopting = False
        self._adopt_orphans()

    def _adopt_orphans(self, *, patient: bool = True) -> None:
        """Take back what finalizers could only report, and warn of what was leaked.

        Who is not patient, as one who acquires, leaves to a worker what needs a round trip.
        """
        leaked: list[tuple[Lease, float]] = []
        left: list[Orphan] = []
        while self._orphans:
            try:
                lease, cause = orphan = self._orphans.popleft()
            except IndexError:  # another thread was faster
                break
            if lease._connection is None:
                continue  # it has ended as it should
            if cause == "leak" and not lease.released:
                leaked.append((lease, lease.seconds()))
            if not patient and self._needs_work(lease):
                left.append((lease, "release" if cause == "leak" else cause))
                continue
            try:
                # Said in the log: whoever passes has nothing to do with it.
                with suppress(SessionStateLeft):
                    self._adopt(lease, cause)
            except BaseException:
                # A finalizer runs once: nobody would say it again.
                self._orphans.extend([*left, orphan])
                raise
        if left:
            self._orphans.extend(left)
            self._call_adopter()
        self._count_leaks(len(leaked))
        # Last, because a filter may turn a warning into an exception.
        for lease, seconds in leaked:
            self._warn_of_leak(lease, seconds)

    def _call_adopter(self) -> None:
        """Have a worker take back what is left."""
        if self._closed:  # meanwhile, and its workers have gone
            self.adopt_orphans()
        elif not self._adopting:
            self._adopting = True
            try:
                self.run_task(Job(self, "adopt_orphans"))
            except RuntimeError:  # the system gives no thread
                self.adopt_orphans()

    def _needs_work(self, lease: Lease) -> bool:
        connection = lease.connection
        if connection is None or lease.released or self._closed:
            return False
        if self.config.verify_state or not reset.at_rest(connection):
            return True
        return reset.due(lease, connection, self.config.reset)

    def _adopt(self, lease: Lease, cause: str) -> None:
        if cause == "idle":
            if lease.keeper is not None and (keeper := lease.keeper()) is not None:
                keeper.on_adrift(lease)
            return
        try:
            if lease.released:  # an interrupt hit its release half way
                self._settle(lease, lease.connection, "interrupted")
            elif lease.connection is None:  # it died with its owner, and closed itself
                self._claim(lease)
                self._settle(lease, None, "lost")
            elif cause == "discard" or self._closed:
                self.discard(lease)
            else:
                self.release(lease)
        except LeaseReleased:
            # An interrupt hit `_settle` half way: the ledger knows the lease no more, and
            # nobody else its connection.
            self._forsake(lease)

    def _forsake(self, lease: Lease) -> None:
        connection = lease.connection
        lease.released = True
        lease._connection = None
        if connection is not None:
            self._count_closed("interrupted")
            self._close_for(connection, "interrupted")

    def _warn_of_leak(self, lease: Lease, seconds: float) -> None:
        if sys.is_finalizing():
            return  # a script that ends with its lease has done nothing wrong
        found = describe(lease)
        self.events.tell(
            "lease_leaked",
            pool=self.name,
            kind="dropped",
            seconds=seconds,
            thread=lease.thread,
            where=found.where,
            stack=found.stack,
        )
        where = f", {found.where}" if found.where else ""
        warnings.warn(
            f"pool {self.name!r}: a lease was dropped without being released, after "
            f"{seconds:.1f} s in thread {lease.thread!r}{where}. It has been taken back. "
            f"{acquired_at(found.stack)}",
            PoolWarning,
            stacklevel=3,
        )

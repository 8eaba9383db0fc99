"""Release: the way home, by whichever way it comes."""

from __future__ import annotations

import logging
from _thread import get_ident
from collections import deque
from contextlib import suppress
from time import monotonic
from typing import Any, Final

from psycopg.pq import TransactionStatus

from django_poolkit.pools.lease import Lease
from django_poolkit.pools.postgres import cancel_request, late, reset, verify
from django_poolkit.pools.postgres.cleaning import Cleaning
from django_poolkit.pools.postgres.connection import PoolConnection, attributes, no_lease
from django_poolkit.pools.postgres.errors import LeaseReleased
from django_poolkit.pools.postgres.growth import Attempt
from django_poolkit.pools.postgres.shell import Job, critical

logger = logging.getLogger("django_poolkit.pool")

_NONE: Final[deque[Any]] = deque()
_IDLE: Final = int(TransactionStatus.IDLE)  # to compare with an enumeration's member is dearer


class Release(Cleaning):
    """Takes connections home. `ConnectionPool` is the whole."""

    _plain_home: bool
    """Whether the options ask for nothing at a release that leaves nothing behind."""
    _rests: bool
    """Whether they ask for nothing between two turns of a lease either."""

    def release(self, lease: Lease) -> None:
        """Give a connection back.

        Rolls back what is open, and resets the session where `reset` asks for it; blocks for
        that round trip only. Raises LeaseReleased where it has been given back already, and
        SessionStateLeft as `verify_state` asks for it.
        """
        # Nearly always nothing is open, nothing was left, and nobody asks for more: what the long
        # way finds out by several functions is spelled out here.
        raw = lease._connection
        if (
            lease.dirty is None
            and isinstance(raw, PoolConnection)
            and self._plain_home
            and not (lease.foreign and self.config.reset == "request")
            and not lease.holds
            and not (raw._pipeline or raw._num_transactions or raw._tpc)
            and raw.pgconn.transaction_status == _IDLE
            and not lease.released
            and not (lease.ran and raw._baseline.reported_change(raw))
            and self._inside != get_ident()
        ):
            self._home(lease, raw)
        else:
            self._release_by_the_long_way(lease)

    def _release_by_the_long_way(self, lease: Lease) -> None:
        if self._inside == get_ident():
            self._orphans.append((lease, "release"))
            return
        connection = lease.held
        if lease.released or connection is None:
            raise LeaseReleased(f"this lease of pool {self.name!r} has been released already")
        if (reason := reset.hopeless(connection, lease)) == "active":
            # Its owner has left a statement half way, as for a signal: the server would go on.
            if lease.loop is None and lease.owner == get_ident():
                late.cancel_unheard(connection)
            else:
                cancel_request.abandon(connection)
        if self._closed:
            reason = "pool_closed"
        full = reason is None and reset.due(lease, connection, self.config.reset)
        if full and connection._shared:  # what it left behind ends with this client of the pooler
            reason, full = "pooler", False
        idle = reason is None and not full and reset.at_rest(connection)
        # What a reset clears away reaches nobody.
        verifies = self.config.verify_state and not full
        if idle and self.config.reset_callback is None and not verifies:
            self._claim(lease)
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
            with suppress(LeaseReleased):  # it was taken back, as from a loop that was closed
                self._settle(lease, connection, "interrupted")
            raise
        self._settle(lease, connection, reason)
        if left:
            raise verify.error(self.name, left)

    def release_idle(self, lease: Lease) -> None:
        """Give back a connection of which the owner has just seen that it is as it was.

        The short way home, for a lease of one statement. Raises as `release()`.
        """
        if (
            lease.dirty is not None
            or lease.holds
            or not self._plain_home
            or self.config.reset != "dirty"
            or self._closed
            or self._inside == get_ident()
            or (connection := lease._connection) is None
        ):
            self.release(lease)
            return
        self._home(lease, connection)

    def _home(self, lease: Lease, connection: PoolConnection) -> None:
        """End a lease whose connection is at rest, and needs no reset and no question."""
        baseline, ledger = connection._baseline, self._ledger
        if attributes(connection) != baseline.attributes or connection._notifies_backlog != _NONE:
            baseline.restore(connection)
        with self._lock:
            # As `_settle()`, where the connection is to stay; see `acquire()`.
            before, self._inside = self._inside, get_ident()
            try:
                now = monotonic()
                live = ledger.live
                settled = (
                    not (self._closed or ledger.reported or lease.released)
                    and connection._generation == self._generation
                    and connection._expire_at > now
                    and len(self._pool) + len(live) + len(self._growth.attempts) <= self._max_size
                    and self._pool_full_event is None
                    and live.pop(lease.key, None) is not None
                )
                if settled:
                    if ledger.turns:
                        ledger.count_turns_locked()
                    ledger.use.observe(now - lease.since)
                    ledger.settled_at = now
                    lease.released, lease._connection = True, None
                    connection._parked, connection._pool = True, None
                    connection._lease_ref = no_lease
                    connection._used_at = connection._idle_since = now
                    if self._waiting.queue:
                        self._give_locked(connection, now)
                    else:
                        self._pool.append(connection)
            finally:
                self._inside = before
        if not settled:
            if lease.released:  # by a signal's handler, in the middle of this
                raise LeaseReleased(f"this lease of pool {self.name!r} has been released already")
            self._settle(lease, connection, None)
        elif self.events.of_leases:
            self.events.tell("lease_released", pool=self.name, seconds=lease.seconds())

    def discard(self, lease: Lease) -> None:
        """Give the slot back and close the connection. Raises LeaseReleased, as `release()`."""
        if self._inside == get_ident():
            self._orphans.append((lease, "discard"))
            return
        connection = lease.held
        self._claim(lease)
        if lease.ran and connection is not None:  # else it was but probed
            cancel_request.abandon(connection)
        self._settle(lease, connection, "discarded")

    def count_pin(self, reason: str) -> None:
        """Count a lease that is held until its keeper closes, by the reason."""
        self._count_pin(str(reason))  # an enumeration's member would print as one
        self.events.tell("pin", pool=self.name, reason=str(reason))

    @critical
    def _count_pin(self, reason: str) -> None:
        self._ledger.pins[reason] += 1

    def _close_for(self, connection: PoolConnection, reason: str) -> None:
        """Close a connection that has been counted out for `reason`."""
        if connection._waited_on:  # by a task that shares it, which closes it when it has seen that
            connection.cut_off()
        else:
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
                    if lease.share is not None:
                        self._serve_locked(now)  # idle ones may be there for who waits for it
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

    # -- what a release leaves to do

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

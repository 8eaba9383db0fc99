"""The queue of a pool, as those see it who come to acquire: threads and tasks alike."""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic
from typing import TypeVar

from django_poolkit.pools.deadline import current
from django_poolkit.pools.lease import Lease
from django_poolkit.pools.postgres import deadlock, probe
from django_poolkit.pools.postgres.connection import PoolConnection
from django_poolkit.pools.postgres.growth import Attempt
from django_poolkit.pools.postgres.patience import Patience
from django_poolkit.pools.postgres.shell import critical
from django_poolkit.pools.postgres.waiters import Waiter

logger = logging.getLogger("django_poolkit.pool")

W = TypeVar("W", bound=Waiter)


class Queueing(Patience):
    """Lends what is idle, and queues who finds nothing. `ConnectionPool` is the whole."""

    def _allowed(self, timeout: float | None, started: float) -> float:
        """Return for how many seconds one may wait who asks for `timeout`."""
        allowed = self.timeout if timeout is None else timeout
        if (deadline := current()) is not None:
            allowed = min(allowed, max(0.0, deadline.at - started))
        return allowed

    def _pass_by(self) -> None:
        """Do what falls to whoever comes to acquire and found none idle."""
        if self._closed:
            self.open()
        if self._orphans:
            self._adopt_orphans(patient=False)

    def _say_saturated(self, waiter: Waiter) -> None:
        if waiter.saturates:
            waiters = len(self._waiting)
            self.events.tell("pool_saturated", pool=self.name, waiters=waiters)

    def _served(self, waiter: Waiter) -> PoolConnection:
        """Return what a waiter was handed. Raises what it was refused with."""
        if waiter.error is not None:
            raise waiter.error
        if self.events.of_waits:
            self.events.tell("lease_waited", pool=self.name, seconds=monotonic() - waiter.since)
        return waiter.connection  # type: ignore[no-any-return]

    @critical
    def _lend_or_queue(
        self, lease: Lease, started: float, allowed: float, again: bool, kind: Callable[[Lease], W]
    ) -> tuple[PoolConnection, None, list[Attempt]] | tuple[None, W, list[Attempt]]:
        if self._closed:
            self._check_open_getconn()
        free = again or not self._wanting_locked()
        if self._pool and free and not self._paused() and self._admits_locked(lease):
            connection: PoolConnection = self._pool.pop()
            self._lend_locked(lease, connection, monotonic())
            return connection, None, []
        if lease.patience is not None:
            self._turn_away_locked(lease)
        waiter = kind(lease)
        self._queue_locked(waiter, started, allowed, again)
        return None, waiter, self._plan_locked()

    @critical
    def _leave_queue(self, waiter: Waiter, started: float, allowed: float) -> None:
        self._waiting.remove(waiter)
        if not waiter.settled:
            waiter.error = self._timed_out_locked(waiter.lease, started, allowed)

    def _queue_locked(self, waiter: Waiter, started: float, allowed: float, again: bool) -> None:
        lease = waiter.lease
        if again:
            self._waiting.append_first(waiter)
            return
        if allowed <= 0 or (self._ends(started, allowed) <= monotonic() and not self._paused()):
            raise self._timed_out_locked(lease, started, allowed)
        if self.max_waiting and (crowd := self._crowd_locked(lease)) >= self.max_waiting:
            raise self._crowded_locked(crowd)
        deadlock.look_locked(self, lease)
        self._told_full = self._told_full and len(self._waiting) > 0
        if len(self._ledger.live) >= self._max_size and not self._told_full:
            self._told_full = waiter.saturates = True
        self._waiting.append(waiter)
        if self._resting or self._at_hand:  # since a moment ago, by one who saw nobody in the queue
            self._collect_locked()

    def _evict(self, lease: Lease, connection: PoolConnection, reason: str) -> None:
        """Drop a connection found dead before its first use, and its like among the idle."""
        gone, starts = self._drop_dead(lease, connection, reason)
        logger.warning("pool=%s event=evicted count=%d reason=%s", self.name, len(gone), reason)
        for each in gone:
            self._close_for(each, reason)
        self._start(starts)

    @critical
    def _drop_dead(
        self, lease: Lease, connection: PoolConnection, reason: str
    ) -> tuple[list[PoolConnection], list[Attempt]]:
        self._ledger.revoke_locked(lease)
        self._park(connection)
        gone = [connection]
        for other in list(self._pool):
            # Silence is the network's: what was last heard of before it began is as silent.
            # Death shows at each socket, at no cost.
            if reason == "silent":
                dead = other._used_at <= connection._used_at
            else:
                dead = not probe.quiet(other)
            if dead:
                self._pool.remove(other)
                gone.append(other)
        self._ledger.closed[reason] += len(gone)
        return gone, self._plan_locked()

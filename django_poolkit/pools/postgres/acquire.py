"""Acquire: the way out of the pool, through the queue if need be, to a connection that lives."""

from __future__ import annotations

import logging
from _thread import get_ident
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from time import monotonic, sleep
from typing import Final
from weakref import ref

from psycopg.pq import TransactionStatus

from django_poolkit.pools.errors import PoolError
from django_poolkit.pools.lease import STACK_DEPTH, Lease
from django_poolkit.pools.postgres import deadlock, port, probe
from django_poolkit.pools.postgres.connection import PoolConnection
from django_poolkit.pools.postgres.errors import (
    LeaseReleased,
    PoolDeadlock,
    PoolPaused,
    PoolTimeout,
    TooManyWaiters,
)
from django_poolkit.pools.postgres.growth import FIRST_PAUSE, Attempt
from django_poolkit.pools.postgres.queueing import Queueing
from django_poolkit.pools.postgres.waiters import ThreadWaiter
from django_poolkit.pools.purpose import tell_lent, tell_refused

logger = logging.getLogger("django_poolkit.pool")

_IDLE: Final = int(TransactionStatus.IDLE)  # to compare with an enumeration's member is dearer
# A waiter looks this often, in seconds, whether a finalizer left something for it.
_ORPHAN_ROUND: Final = 0.25

_REFUSALS: Final[dict[type[BaseException], str]] = {
    PoolTimeout: "timeout",
    PoolDeadlock: "deadlock",
    PoolPaused: "paused",
    TooManyWaiters: "too_many_waiters",
}


class Acquire(Queueing):
    """Gives connections out. `ConnectionPool` is the whole."""

    def acquire(
        self, timeout: float | None = None, *, depth: int = STACK_DEPTH, skip: int = 1,
        patience: float | None = None,
    ) -> Lease:  # fmt: skip
        """Acquire a connection and return its lease.

        Blocks for `timeout` seconds at most, the pool's own where it is None. A stack that it
        remembers has `depth` frames, without the `skip` innermost. Raises PoolTimeout, PoolPaused,
        TooManyWaiters or PoolClosed; ServerRefuses with `patience`, where the server is mute.
        """
        me, started = get_ident(), monotonic()
        if self._inside == me:
            raise self._no_finalizer()
        stack = self._take_stack(depth, skip + 1) if started >= self._stack_due else ()
        ledger, config, shares, connection = self._ledger, self.config, self._shares, None
        lease = Lease(self, ledger.new_key(), stack)
        if type(port.getcurrent()) is port.Greenlet:  # it waits as a task
            self._note_task(lease)
        try:
            if shares is not None:
                lease.share = shares.of_caller()
            # Nearly always one is idle. Spelled out, since caches are cold after a wait.
            with self._lock:
                before, self._inside = self._inside, me
                try:
                    not_now = self._waiting.queue or self._paused_until or self._orphans
                    if self._pool and not not_now and (shares is None or lease.share is None):
                        connection = self._pool.pop()
                        connection._parked, connection._pool = False, self
                        lease._connection, lease.since = connection, started
                        connection._lease_ref = ledger.live[lease.key] = ref(lease)
                        ledger.acquired += 1
                finally:
                    self._inside = before
            # Handed out as it is where it is quiet, at rest, and was heard of just now.
            if (
                connection is None
                or config.check is not None
                or started - connection._used_at > config.bypass
                or connection.pgconn.transaction_status != _IDLE
                or (poller := connection._poller) is None
                or poller.poll(0)
            ):
                self._find_living(lease, connection, started, timeout, patience)
            if self.events.of_leases:
                self.events.tell("lease_acquired", pool=self.name, waited=monotonic() - started)
            return lease
        except BaseException as error:
            self._not_acquired(lease, error, started)
            raise

    def _no_finalizer(self) -> PoolError:
        return PoolError(
            f"pool {self.name!r}: a finalizer tried to acquire a connection while its "
            "thread was inside the pool; finalizers cannot wait",
            pool=self.name,
        )

    def _not_acquired(self, lease: Lease, error: BaseException, started: float) -> None:
        # An interrupt between the hand-over and the acquiring frame's end, or a failing check.
        if lease.held is not None and not lease.released:
            with suppress(LeaseReleased):  # it hit the ledger in the middle of an entry
                self.discard(lease)
        if (kind := _REFUSALS.get(type(error))) is not None:
            waited = monotonic() - started
            self.events.tell("pool_timeout", pool=self.name, kind=kind, waited=waited)

    def _find_living(
        self,
        lease: Lease,
        connection: PoolConnection | None,
        started: float,
        timeout: float | None,
        patience: float | None,
    ) -> None:
        """Probe what has been lent, and go on, through the queue, until something lives."""
        allowed = self._allowed(timeout, started)
        lease.patience = patience
        again, pause = False, FIRST_PAUSE / 2
        while True:
            if connection is None:
                connection = self._take(lease, started, allowed, again)
            reason = self._unusable(connection, started + allowed)
            if reason is None:
                return
            new = connection._used_at == connection._created_at
            self._evict(lease, connection, reason)
            again, connection = True, None
            if new and reason == "check_failed":
                # The user's check refuses even what was connected just now: to connect
                # again at once would help nobody, and be a storm.
                left = started + allowed - monotonic()
                pause = min(self.config.reconnect_cap, pause * 2)
                sleep(max(0.0, min(pause, left)))

    @contextmanager
    def lease(self, timeout: float | None = None) -> Iterator[PoolConnection]:
        """Acquire a connection for the length of a `with` block.

        As with psycopg's own connections, the block's transaction is committed at its end,
        rolled back on an exception. Blocks and raises as `acquire()`.
        """
        context = None if self.context is None else self.context()
        try:
            lease = self.acquire(timeout)
        except PoolError as error:
            tell_refused(context, error)
            raise
        lease.in_block, lease.context = True, tell_lent(context)
        try:
            with lease.connection as connection:
                yield connection
        finally:
            try:
                if not lease.released:
                    lease.release()
            finally:  # also where an interrupt hits the release: it may serve this thread again
                lease.in_block, lease.context = False, None

    connection = lease

    def _take(self, lease: Lease, started: float, allowed: float, again: bool) -> PoolConnection:
        """Return an idle connection, or one that came while queued. Lent, but not yet probed."""
        self._pass_by()
        waiter: ThreadWaiter | None = None
        starts: list[Attempt] = []
        if not again and allowed > 0 and lease.patience is None:
            waiter = self._line_up(lease, started)
        if waiter is None:
            connection, waiter, starts = self._lend_or_queue(
                lease, started, allowed, again, ThreadWaiter
            )
            if waiter is None:
                assert connection is not None
                return connection
        try:
            if waiter.saturates:
                self._say_saturated(waiter)
            if starts:
                self._start(starts)
            while (left := self._ends(started, allowed) - monotonic()) > 0:
                # Settled, and asleep still: an interrupt hit who was about to wake it.
                if waiter.wait(min(left, _ORPHAN_ROUND)) or waiter.settled:
                    break
                self._adopt_orphans(patient=False)
                self._start(self.look_after_waiters())
                if lease.patience is not None:
                    self._look_whether_in_vain(waiter)
        finally:
            if not waiter.settled:  # the time is up, or an interrupt came
                self._leave_queue(waiter, started, allowed)
        return self._served(waiter)

    def _line_up(self, lease: Lease, started: float) -> ThreadWaiter | None:
        """Queue where all are leased, and nothing else is to be decided; else return None.

        What `_lend_or_queue()` does with some twenty calls more. Raises PoolDeadlock.
        """
        with self._lock:
            before, self._inside = self._inside, get_ident()
            try:
                if (
                    self._closed or self._pool or self._resting or self._at_hand or self._orphans
                    or len(self._ledger.live) < self._max_size or self._growth.attempts
                    or self._shares is not None or self.max_waiting
                    or self._paused_until or self._lost_until > started
                ):  # fmt: skip
                    return None
                deadlock.look_locked(self, lease)
                queue, waiter = self._waiting.queue, ThreadWaiter(lease)
                if not (self._told_full and queue):
                    self._told_full = waiter.saturates = True
                queue[waiter] = None
                # Since a moment ago, by one who saw nobody in the queue.
                if self._resting or self._at_hand:
                    self._collect_locked()
                return waiter
            finally:
                self._inside = before

    def _unusable(self, connection: PoolConnection, deadline: float) -> str | None:
        """Return None for a connection that can be handed out, else the reason to close it."""
        # As in `acquire()`: whoever queued is nearly always handed what was used a moment ago.
        if (
            self.config.check is None
            and monotonic() - connection._used_at <= self.config.bypass
            and connection.pgconn.transaction_status == _IDLE
            and (poller := connection._poller) is not None
            and not poller.poll(0)
        ):
            return None
        timeout = self._for_probe(deadline)
        found = probe.look(connection, bypass=self.config.bypass, timeout=timeout)
        return self._checked(connection) if found is probe.State.ALIVE else str(found.value)

    def _for_probe(self, deadline: float) -> float:
        """Return for how many seconds a probe may be waited for."""
        return min(self.config.probe_timeout, max(deadline - monotonic(), probe.SHORTEST))

    def _checked(self, connection: PoolConnection) -> str | None:
        """Return None where the user's check lets a connection pass. Blocks as that does."""
        if self.config.check is None:
            return None
        try:
            self.config.check(connection)
        except Exception as error:
            name = type(error).__name__
            logger.info("pool=%s event=check_failed error=%s", self.name, name)
            self._ledger.last_check_error = f"check refused a connection: {name}"
            return "check_failed"
        self._ledger.last_check_error = None
        self._forget_check(connection)
        return None

    @staticmethod
    def _forget_check(connection: PoolConnection) -> None:
        # What the check ran is not the caller's doing; state that it left behind is.
        lease = connection._lease_ref()
        if lease is not None:
            lease.foreign = lease.committed = lease.wrote = lease._lone = False

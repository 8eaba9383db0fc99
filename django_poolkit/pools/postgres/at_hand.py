"""At hand: the connection of a lease that is over, where its thread finds it again.

A raw pool's leases end when their owner says so, and most often the same thread wants a connection
again before anybody else does. So at a release with nobody in the queue the connection is not put
back among the idle: it is left where this thread's next acquire finds it, and neither takes the
pool's lock. The figures and the key of the lease go on in the ledger, where the next lease takes
its place; so what is counted never changes without the lock. Whoever enters the pool by `critical`
first puts all that lies at hand among the idle, and so never sees the difference.

`_at_hand` is the one thing that owner and others both touch, and taking a key out of a dict is
atomic: who gets it has the connection. The owner puts it there first, and then looks whether
somebody waits, or the pool has changed; a waiter queues first, and looks there then. So one of
them sees the other.

A lease that nobody refers to any more is used again: to make one costs a fifth of it all.
"""

from __future__ import annotations

import sys
from _thread import get_ident
from sys import getrefcount
from time import monotonic
from typing import Any, Final
from weakref import ref

from psycopg.pq import TransactionStatus

from django_poolkit.pools.lease import STACK_DEPTH, Lease, here
from django_poolkit.pools.postgres import port
from django_poolkit.pools.postgres.connection import PoolConnection, attributes, no_lease
from django_poolkit.pools.postgres.errors import LeaseReleased
from django_poolkit.pools.postgres.resting import TURNS
from django_poolkit.pools.postgres.task_release import TaskRelease

_IDLE: Final = int(TransactionStatus.IDLE)


class _Owner:
    """Stands for a connection with its lease."""

    lease: object


def _references() -> int:
    """Return the count of references to what one attribute and one variable refer to."""
    owner = _Owner()
    owner.lease = object()
    lease = owner.lease
    return getrefcount(lease)


def _of_nobody_else() -> int:
    """Return that count where it can be relied upon, else 0, which is never met."""
    expected = 2 if sys.version_info >= (3, 14) else 3  # 3.14 lends what it passes on
    has_gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    return expected if has_gil and _references() == expected else 0


_ALONE: Final = _of_nobody_else()


class FormerPool:
    """Stands for the pool of a lease that is over: leads there, and keeps nothing alive."""

    __slots__ = ("_pool", "name")

    def __init__(self, pool: AtHand) -> None:
        self._pool = ref(pool)
        self.name = pool.name

    def __getattr__(self, name: str) -> Any:
        return getattr(self._found(), name)

    def _found(self) -> AtHand:
        if (pool := self._pool()) is None:
            raise LeaseReleased(f"this lease of pool {self.name!r} has been released already")
        return pool


class AtHand(TaskRelease):
    """Leaves connections where their threads find them again. `ConnectionPool` is the whole."""

    _lays_by: bool
    """Whether the options ask for nothing between two leases."""
    _former: Any
    """The pool that a lease at hand belongs to."""

    # Both are one function each: a call of another one would cost a fiftieth of it all.

    def acquire(
        self, timeout: float | None = None, *, depth: int = STACK_DEPTH, skip: int = 1,
        patience: float | None = None,
    ) -> Lease:  # fmt: skip
        """Acquire a connection and return its lease. Blocks and raises as `Acquire.acquire()`."""
        at_hand = self._at_hand
        if not at_hand or (thread := here.thread) not in at_hand:
            return super().acquire(timeout, depth=depth, skip=skip + 1, patience=patience)
        try:
            connection = at_hand[thread]
            del at_hand[thread]  # who does has it
        except KeyError:  # somebody was faster
            return super().acquire(timeout, depth=depth, skip=skip + 1, patience=patience)
        try:
            lease: Lease = connection._owned_lease  # type: ignore[assignment]
            now = monotonic()
            if (
                now - connection._used_at <= self.config.bypass
                and connection.pgconn.transaction_status == _IDLE
                and connection._generation == self._generation
                and not (lease.listed or lease.overdue)
                and not (self._closed or self._paused_until or self._orphans)
                and not self.events.of_leases
                and type(port.getcurrent()) is not port.Greenlet  # which has to know its loop
                and (poller := connection._poller) is not None
                and not poller.poll(0)
            ):
                stack = self._take_stack(depth, skip + 1) if now >= self._stack_due else ()
                turn = connection._used_at - lease.since
                known: Any = connection._lease_ref
                if getrefcount(lease) != _ALONE:
                    lease = Lease(self, lease.key, stack)
                    known = ref(lease)
                elif lease.ran:
                    lease.forget_statements()
                self._ledger.turns.append(turn)
                self._ledger.live[lease.key] = known
                # Nothing is called from here on, so that no interrupt can come between.
                lease.released, lease.since, lease.stack, lease.pool = False, now, stack, self
                connection._parked, connection._pool, connection._owned_lease = False, self, None
                connection._lease_ref, lease._connection = known, connection
                return lease
        except BaseException:
            self._leave_to_all(connection)
            raise
        self._leave_to_all(connection)
        return super().acquire(timeout, depth=depth, skip=skip + 1, patience=patience)

    def _leave_to_all(self, connection: PoolConnection) -> None:
        # Not under its thread, where a finalizer may have left another one meanwhile.
        self._at_hand[connection] = connection
        self.collect()

    def release(self, lease: Lease) -> None:
        """Give a connection back. Blocks and raises as `Release.release()`."""
        connection, me, now = lease._connection, get_ident(), monotonic()
        # A closer look than `_home()` takes: who comes back finds the lease as it left it.
        if (
            lease.alias is not None
            or not self._lays_by
            or self._closed
            or self._waiting.queue
            or not isinstance(connection, PoolConnection)
            or lease.owner != me or self._inside == me
            or connection.pgconn.transaction_status != _IDLE
            or (lease.ran and connection._baseline.reported_change(connection))
            or attributes(connection) != connection._baseline.attributes
            or len(self._ledger.turns) >= TURNS
            # Nothing is called from here to the last step: no interrupt can come between, nor a
            # finalizer that leaves another one at hand, nor a thread that ends the same lease.
            or lease.released or lease.lost or lease.dirty is not None or lease.holds
            or lease.keeper is not None or lease.loop is not None or lease.pinned is not None
            or lease.patience is not None or lease.listed or lease.overdue
            or (lease.foreign and self.config.reset == "request")
            or connection._pipeline or connection._num_transactions or connection._tpc
            or connection._notifies_backlog is None or connection._notifies_backlog
            or self.events.of_leases
            or lease._thread in self._at_hand
        ):  # fmt: skip
            if self._at_hand and lease._thread in self._at_hand:
                self.collect()  # what was used last is to be the next to be used
            if lease.owner != me and lease.alias is None:
                # Which claims it: its owner may be about to leave it at hand, without the lock.
                self._release_by_the_long_way(lease)
            else:
                super().release(lease)
            return
        lease.released, lease._connection, lease.pool = True, None, self._former
        connection._parked, connection._pool, connection._owned_lease = True, None, lease
        connection._used_at = connection._idle_since = now
        self._at_hand[lease._thread] = connection
        if (
            self._waiting.queue
            or self._paused_until
            or self._closed
            or self._pool_full_event is not None
            or connection._generation != self._generation
            or connection._expire_at <= now
            or len(self._ledger.live) > self._max_size
        ):
            self.collect()
            if self._orphans:  # it has to go
                self._adopt_orphans()

    def _take_in_locked(self) -> None:
        ledger, at_hand = self._ledger, self._at_hand
        # In the order they were left, so that the one used last is the next to be used. One by
        # one: an interrupt leaves the others where they are.
        for key in list(at_hand):
            try:
                connection = at_hand[key]
                del at_hand[key]
            except KeyError:  # its thread was faster
                continue
            old: Lease = connection._owned_lease  # type: ignore[assignment]
            try:
                now = monotonic()
                if not (doubted := self._doubted_locked(connection)):
                    ledger.settle_locked(old, connection._used_at)
            except BaseException:
                at_hand[connection] = connection  # to settle it again changes nothing
                raise
            connection._owned_lease, connection._lease_ref = None, no_lease
            if doubted:
                # Closed outside of the lock, as by a lease that is none's. It is not laid by again.
                lease = Lease(self, old.key, ())
                lease._connection, lease.listed = connection, True
                lease.since = old.since + now - connection._used_at  # which has been no use of it
                connection._lease_ref = ledger.live[lease.key] = ref(lease)
                self._orphans.append((lease, "release"))
                continue
            self._give_locked(connection, now)

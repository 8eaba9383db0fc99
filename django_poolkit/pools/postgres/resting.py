"""Resting: a lease that its owner needs no more for now, and that anyone may have.

In transaction mode one thread runs one statement after another, and nearly always nobody else
wants its connection in between. So a lease at its end is not settled at once: it is left where
its owner finds it again, without the lock. Whoever enters the pool by `critical`, to acquire, to
count or to steer, first puts what rests among the idle, and so never sees the difference.

`_resting` is the one thing that owner and others both touch, and taking a key out of a dict is
atomic: who gets it has the lease. The owner puts its lease there first, and then looks whether
somebody waits, or the pool has changed; a waiter queues first, and looks there then. So one of
them sees the other.
"""

from __future__ import annotations

from _thread import get_ident
from collections import deque
from time import monotonic
from typing import Any, Final

from psycopg.pq import TransactionStatus

from django_poolkit.pools.lease import Lease, Stack, capture_stack
from django_poolkit.pools.postgres import port
from django_poolkit.pools.postgres.connection import attributes
from django_poolkit.pools.postgres.release import Release
from django_poolkit.pools.postgres.shell import critical

_NONE: Final[deque[Any]] = deque()
_IDLE: Final = int(TransactionStatus.IDLE)
# Seconds between two leases that remember their stack, where not all of them do: to walk ten
# frames costs what taking an idle connection costs, and who looks wants to see the usual.
_STACK_INTERVAL: Final = 0.005
# So many turns are kept in a list, before a lease is settled and they are counted.
TURNS: Final = 1000


class Resting(Release):
    """Keeps leases where their owners find them again. `ConnectionPool` is the whole."""

    _samples: bool
    """Whether only some leases remember their stack."""

    def _take_stack(self, depth: int, skip: int) -> Stack:
        if self._samples:
            self._stack_due = monotonic() + _STACK_INTERVAL
        return capture_stack(depth, skip)

    def _note_task(self, lease: Lease) -> None:
        # In a frame of its own, as in the bridge alone: see `port.getcurrent`.
        here = port.getcurrent()
        lease.loop, lease.task, self._lends_to_tasks = here.loop, here.task, True

    def rest(self, lease: Lease) -> bool:
        """End a lease's turn; return whether it rests, and `rouse()` may begin another one.

        For an owner who has just seen that the connection is as it was, and who uses neither from
        here on. Where the lease cannot rest it is released, with what `release()` raises.
        """
        connection = lease._connection
        if (
            not self._rests
            or self._waiting.queue
            or lease.dirty is not None
            or connection is None
            or lease.holds or lease.foreign or lease.prepares or lease.new_types
            or lease.wrote or lease.committed or lease.overdue or lease.shared
            or lease.cursors or lease.listed
            or len(self._ledger.turns) >= TURNS
            or self.events.of_leases
            or attributes(connection) != connection._baseline.attributes
            or connection._notifies_backlog != _NONE
        ):  # fmt: skip
            self.release_idle(lease)
            return False
        lease.turn += 1  # its cursors are over
        if lease.loop is not None:
            lease.loop = lease.task = None  # what rests does not go with the loop it was used on
        connection._used_at = connection._idle_since = now = monotonic()
        resting, key = self._resting, lease.key
        resting[key] = lease
        if (
            self._waiting.queue
            or self._paused_until
            or self._closed
            or self._pool_full_event is not None
            or connection._generation != self._generation
            or connection._expire_at <= now
        ) and resting.pop(key, None) is not None:
            self.release_idle(lease)
            return False
        return True

    def rouse(self, lease: Lease, depth: int, skip: int) -> bool:
        """Begin another turn of a lease that rests; return False where somebody else has it.

        That is also where its connection wants a closer look than this one. Never blocks. A stack
        that it remembers is as with `acquire()`.
        """
        resting = self._resting
        if lease.owner != get_ident() or resting.pop(lease.key, None) is None:
            return False
        now, connection = monotonic(), lease._connection
        if (
            now - connection._used_at <= self.config.bypass
            and connection.pgconn.transaction_status == _IDLE
            and connection._generation == self._generation
            and not lease.listed
            and not (self._closed or self._paused_until or self._orphans or self.events.of_leases)
            and not connection._poller.poll(0)
        ):
            if type(port.getcurrent()) is port.Greenlet:
                self._note_task(lease)
            self._ledger.turns.append(connection._used_at - lease.since)
            lease.since, lease.statement = now, None
            lease.stack = self._take_stack(depth, skip + 1) if now >= self._stack_due else ()
            return True
        resting[lease.key] = lease
        self.collect()
        return False

    def end_rest(self, lease: Lease) -> None:
        """Settle a lease that rests, if it still does: its owner has closed. Does not block."""
        if self._resting.pop(lease.key, None) is not None:
            self._home(lease, self._roused(lease))

    @critical
    def collect(self) -> None:
        """Put what rests among the idle, as each critical section does when it begins."""

"""Adoption: what comes home by other ways than its owner's hands.

A finalizer runs at any bytecode of any thread, and can do no more than leave word. Whoever passes
then takes back what was left.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from _thread import get_ident
from contextlib import suppress
from weakref import ref

from django_poolkit.pools.errors import PoolWarning, SessionStateLeft
from django_poolkit.pools.lease import Lease, acquired_at, format_stack
from django_poolkit.pools.ledger import describe
from django_poolkit.pools.postgres import reset
from django_poolkit.pools.postgres.cancel_request import abandon
from django_poolkit.pools.postgres.errors import LeaseReleased
from django_poolkit.pools.postgres.resting import Resting
from django_poolkit.pools.postgres.shell import Job, critical
from django_poolkit.pools.postgres.state import Orphan

logger = logging.getLogger("django_poolkit.pool")


class Adoption(Resting):
    """Takes back what finalizers could only report. `ConnectionPool` is the whole."""

    def lost(self, lease: Lease) -> None:
        """Take note of a lease that was dropped. Called by its finalizer, on any thread."""
        # Of what dies in a cycle, the collector has cleared all references first: the ledger would
        # take it for one that died without a word, and count it out beside its connection.
        live = self._ledger.live
        if (known := live.get(lease.key)) is not None and known() is None:
            live[lease.key] = ref(lease)
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

    def adopt_orphans(self) -> None:
        """Take back what finalizers could only report. Blocks for the resets it takes."""
        self._adopting = False
        self._adopt_orphans()

    def _adopt_orphans(self, *, patient: bool = True) -> None:
        """Take back what finalizers could only report, and warn of what was leaked.

        Who is not patient, as one who acquires, leaves to a worker what needs a round trip.
        """
        if self._lends_to_tasks:
            self._reclaim()
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
        # One that the collector had cleared has been counted by who found that first.
        purged = self._ledger.purged
        self._count_leaks(sum(lease.key not in purged for lease, _ in leaked))
        # Last, because a filter may turn a warning into an exception.
        for lease, seconds in leaked:
            self._warn_of_leak(lease, seconds)

    def _reclaim(self) -> None:
        """Take back what tasks have of which the event loop was closed: they never run again."""
        taken = 0
        for lease in self._of_closed_loops():
            seconds, connection = lease.seconds(), lease.held
            if connection is not None:
                connection._waited_on = 0
                abandon(connection)
            with suppress(LeaseReleased):  # another thread was faster
                if lease.released:  # nobody goes on with its release
                    self._settle(lease, connection, "interrupted")
                else:
                    self.discard(lease)
                taken += 1
                self.events.tell(
                    "lease_leaked", pool=self.name, kind="dropped", seconds=seconds,
                    thread=lease.thread, where=None, stack=format_stack(lease.stack),
                )  # fmt: skip
        if taken:
            logger.warning("pool=%s event=loop_closed leases=%d", self.name, taken)
            self._count_leaks(taken)

    @critical
    def _of_closed_loops(self) -> list[Lease]:
        return [
            lease
            for lease in self._ledger.leases_locked()
            if lease.loop is not None
            and lease.loop.is_closed()
            and not lease.lost  # which is among the orphans
            and (lease.ends_on_loop or not lease.released)  # else a thread is about to end it
        ]

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
        connection = lease.held
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
                self._settle(lease, lease.held, "interrupted")
            elif lease.held is None:  # it died with its owner, and closed itself
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
        connection = lease.held
        lease.released = True
        lease._connection = None
        if connection is not None:
            abandon(connection)
            if lease.key not in self._ledger.purged:  # or it is counted as lost
                self._count_closed("interrupted")
            self._close_for(connection, "interrupted")

    @critical
    def _count_leaks(self, count: int) -> None:
        self._ledger.leaks += count

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

"""Acquire in a task: as in a thread, in the same queue, and nothing holds up the event loop.

Being cancelled is the normal case. Who waits leaves the queue at once, and what was handed to it
in that instant goes to the next; who was about to probe a connection closes it.
"""

from __future__ import annotations

import asyncio
from _thread import get_ident
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Any, Final, TypeVar
from weakref import ref

from psycopg.pq import TransactionStatus

from django_poolkit.pools.lease import STACK_DEPTH, Lease, Stack
from django_poolkit.pools.postgres import port, probe
from django_poolkit.pools.postgres.acquire import Acquire
from django_poolkit.pools.postgres.connection import PoolConnection
from django_poolkit.pools.postgres.growth import FIRST_PAUSE, Attempt
from django_poolkit.pools.postgres.shell import critical
from django_poolkit.pools.postgres.steadfast import in_thread, steadfast
from django_poolkit.pools.postgres.task_waiter import Round, TaskWaiter

_IDLE: Final = int(TransactionStatus.IDLE)  # to compare with an enumeration's member is dearer

L = TypeVar("L", bound=Lease)


class TaskAcquire(Acquire):
    """Gives connections out to tasks. `ConnectionPool` is the whole."""

    _rounds: dict[asyncio.AbstractEventLoop, Round]
    """Of the loops on which somebody waits. Each one's is written on that loop alone."""

    def _prepare_shell(self) -> None:
        super()._prepare_shell()
        self._rounds = {}

    async def acquire_as(
        self,
        kind: Callable[[Any, int, Stack], L],
        timeout: float | None = None,  # noqa: ASYNC109 - an acquire has a deadline of its own
        *,
        depth: int = STACK_DEPTH,
        skip: int = 1,
        patience: float | None = None,
    ) -> L:
        """Acquire a connection in a task, and return its lease, a `kind` of the caller's choice.

        Waits and raises as `acquire()`, and never blocks the loop.
        """
        started = monotonic()
        if self._inside == get_ident():
            raise self._no_finalizer()
        stack = self._take_stack(depth, skip + 1) if started >= self._stack_due else ()
        lease = kind(self, self._ledger.new_key(), stack)
        lease.loop, self._lends_to_tasks = asyncio.get_running_loop(), True
        if (task := asyncio.current_task()) is not None:
            lease.task = ref(task)
        try:
            if self._shares is not None:
                lease.share = self._shares.of_caller()
            connection = self._lend_idle_one(lease, started)
            if connection is None or not self._is_quiet(connection, started):
                lease.patience = patience
                await self._find_living_in_task(lease, connection, started, timeout)
            if self.events.of_leases:
                self.events.tell("lease_acquired", pool=self.name, waited=monotonic() - started)
            return lease
        except BaseException as error:
            self._not_acquired(lease, error, started)
            raise

    def _lend_idle_one(self, lease: Lease, started: float) -> PoolConnection | None:
        """Return an idle connection as `acquire()` takes it, None where it has to be queued for."""
        with self._lock:
            before, self._inside = self._inside, get_ident()
            try:
                if (
                    not self._pool
                    or self._waiting.queue
                    or self._paused_until
                    or self._orphans
                    or lease.share is not None
                ):
                    return None
                connection = self._pool.pop()
                self._lend_locked(lease, connection, started)
                return connection
            finally:
                self._inside = before

    def _is_quiet(self, connection: PoolConnection, now: float) -> bool:
        """Return whether it is handed out as it is: at rest, and heard of just now."""
        return (
            self.config.check is None
            and now - connection._used_at <= self.config.bypass
            and connection.pgconn.transaction_status == _IDLE
            and (poller := connection._poller) is not None
            and not poller.poll(0)
        )

    def _find_living(
        self,
        lease: Lease,
        connection: PoolConnection | None,
        started: float,
        timeout: float | None,
        patience: float | None,
    ) -> None:
        if lease.loop is None:
            super()._find_living(lease, connection, started, timeout, patience)
            return
        if connection is None and (self._resting or self._at_hand):
            # What rests is idle for all but its owner: to take it is no reason to wait.
            self.collect()
            connection = self._lend_idle_one(lease, started)
            if connection is not None and self._is_quiet(connection, started):
                return
        # Synchronous code in the bridge: it waits in the queue as the task that it runs in.
        lease.patience = patience
        port.await_only(self._find_living_in_task(lease, connection, started, timeout))

    async def _find_living_in_task(
        self,
        lease: Lease,
        connection: PoolConnection | None,
        started: float,
        seconds: float | None,
    ) -> None:
        """Do as `_find_living()`."""
        allowed = self._allowed(seconds, started)
        again, pause = False, FIRST_PAUSE / 2
        while True:
            if connection is None:
                connection = await self._take_in_task(lease, started, allowed, again)
            found = await probe.look_on_loop(
                connection, bypass=self.config.bypass, timeout=self._for_probe(started + allowed)
            )
            reason: str | None = str(found.value)
            if found is probe.State.ALIVE:
                if self.config.check is None:
                    return
                reason = await steadfast(in_thread(self.name, self._checked, connection))
                if reason is None:
                    return
            new = connection._used_at == connection._created_at
            self._evict(lease, connection, str(reason))
            again, connection = True, None
            if new and reason == "check_failed":
                left = started + allowed - monotonic()
                pause = min(self.config.reconnect_cap, pause * 2)
                await asyncio.sleep(max(0.0, min(pause, left)))

    async def _take_in_task(
        self, lease: Lease, started: float, allowed: float, again: bool
    ) -> PoolConnection:
        """Do as `_take()`."""
        self._pass_by()
        connection, waiter, starts = self._lend_or_queue(lease, started, allowed, again, TaskWaiter)
        if waiter is None:
            assert connection is not None
            return connection
        try:
            self._say_saturated(waiter)
            self._start(starts)
            waiter.until = started + allowed
            self._round_of(waiter).join(waiter)
            await waiter.turn(self._ends(started, allowed) - monotonic())
            if not waiter.settled:  # the time is up
                self._leave_queue(waiter, started, allowed)
            return self._served(waiter)
        except BaseException:
            self._withdraw(waiter)
            raise
        finally:
            if (round_ := self._rounds.get(waiter.loop)) is not None and round_.leave(waiter):
                del self._rounds[waiter.loop]

    def _round_of(self, waiter: TaskWaiter) -> Round:
        if (found := self._rounds.get(waiter.loop)) is not None:
            return found
        for loop in list(self._rounds):  # whose tasks somebody keeps
            if loop.is_closed():
                self._rounds.pop(loop, None)
        made = self._rounds[waiter.loop] = Round(self)
        return made

    def look_after_tasks(self, waiters: Iterable[TaskWaiter]) -> None:
        """Do for those who wait on a loop what each thread that waits does on its own."""
        self._adopt_orphans(patient=False)
        self._start(self.look_after_waiters())
        lost, now = self.server_lost, monotonic()
        for waiter in waiters:
            if waiter.lease.patience is not None:
                self._look_whether_in_vain(waiter)
            if lost and self._ends(waiter.until, 0.0) <= now:
                waiter.give_up()

    def _withdraw(self, waiter: TaskWaiter) -> None:
        """Take a waiter out of the queue that will not wait any longer, nor take anything."""
        gone, reason, starts = self._hand_on(waiter)
        if gone is not None:
            self._close_for(gone, reason)
        self._start(starts)

    @critical
    def _hand_on(self, waiter: TaskWaiter) -> tuple[PoolConnection | None, str, list[Attempt]]:
        self._waiting.remove(waiter)
        lease = waiter.lease
        if (connection := lease._connection) is None:
            return None, "", []
        # Nobody has touched it: so it is no lease, and goes to whoever is next.
        now = monotonic()
        self._ledger.revoke_locked(lease)
        self._park(connection)
        if reason := self._stale_locked(connection, now):
            self._ledger.closed[reason] += 1
            return connection, reason, self._plan_locked()
        self._give_locked(connection, now)
        return None, "", self._plan_locked()

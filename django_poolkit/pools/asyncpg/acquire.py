"""Acquire: the way out of the pool, through the queue if need be, to a connection that lives."""

from __future__ import annotations

import asyncio
import logging
from time import monotonic
from typing import Any, Final, cast
from weakref import ref

from django_poolkit.pools.asyncpg.connection import LeasedConnection
from django_poolkit.pools.asyncpg.errors import PoolPaused, PoolTimeout, TooManyWaiters
from django_poolkit.pools.asyncpg.growing import Growing
from django_poolkit.pools.asyncpg.lease import AsyncpgLease
from django_poolkit.pools.asyncpg.physical import Physical
from django_poolkit.pools.asyncpg.state import Waiter
from django_poolkit.pools.errors import PoolError
from django_poolkit.pools.lease import STACK_DEPTH, capture_stack
from django_poolkit.pools.purpose import tell_lent, tell_refused

logger = logging.getLogger("django_poolkit.pool")

# Seconds between two leases that remember their stack, where not all of them do.
_STACK_INTERVAL: Final = 0.005
_REFUSALS: Final[dict[type[BaseException], str]] = {
    PoolTimeout: "timeout",
    PoolPaused: "paused",
    TooManyWaiters: "too_many_waiters",
}


class Acquire(Growing):
    """Gives connections out. `Line` is the whole."""

    async def acquire(self, timeout: float | None) -> AsyncpgLease:
        """Acquire a connection and return its lease. As `AsyncpgPool.acquire()`."""
        if (at_once := self.at_once()) is not None:
            return at_once
        pool, started = self.pool, monotonic()
        lease = self._new_lease(started)
        try:
            allowed = pool.config.timeout if timeout is None else timeout
            await self._find_living(lease, started, allowed)
            if pool.context is not None:
                lease.context = tell_lent(pool.context())
            if pool.config.setup is not None:
                await self._set_up(lease, started, allowed)
            if pool.events.of_leases:
                waited = monotonic() - started
                pool.events.tell("lease_acquired", pool=pool.name, waited=waited)
            return lease
        except BaseException as error:
            self._not_acquired(lease, error, started)
            raise

    def at_once(self) -> AsyncpgLease | None:
        """Lend what is idle, quiet and was heard of just now; None where `acquire()` has to wait.

        Nearly always there is such a connection. What several functions do is spelled out here: a
        task that has waited for a server finds the caches cold, and each costs it half a
        microsecond.
        """
        pool, idle = self.pool, self.idle
        if (
            not idle or self.waiters or self.closing or pool.paused_until
            or pool.config.setup is not None
        ):  # fmt: skip
            return None
        started, physical = monotonic(), idle[-1]
        raw: Any = physical.connection
        if (
            started - physical.used_at > pool.config.bypass
            or raw.is_closed()
            or ((poller := physical.poller) is not None and poller.poll(0))
        ):
            return None
        lease = self._new_lease(started)
        try:
            lease.physical = physical
            reference: ref[Any] = ref(lease)
            connection = LeasedConnection(physical.holder, raw, reference, self.loop, pool.name)
            with self.lock:
                lease._connection = connection
                self.ledger.live[lease.key] = reference
                self.ledger.acquired += 1
                self.out.add(physical)
                idle.pop()  # the same one: nobody takes any but on this loop's thread
            if pool.context is not None:
                lease.context = tell_lent(pool.context())
            if pool.events.of_leases:
                pool.events.tell("lease_acquired", pool=pool.name, waited=monotonic() - started)
            return lease
        except BaseException as error:
            self._not_acquired(lease, error, started)
            raise

    def _new_lease(self, started: float) -> AsyncpgLease:
        pool, stack = self.pool, ()
        if started >= pool.stack_due:
            stack = capture_stack(STACK_DEPTH)  # type: ignore[assignment]
            if pool.samples:
                pool.stack_due = started + _STACK_INTERVAL
        lease = AsyncpgLease(cast(Any, pool), self.ledger.new_key(), stack)
        lease.since, lease.line, lease.physical = started, cast(Any, self), None
        return lease

    async def _set_up(self, lease: AsyncpgLease, started: float, allowed: float) -> None:
        """Run `setup` within what is left of the acquire; a moment is left to it in any case."""
        config = self.pool.config
        assert config.setup is not None
        seconds = max(started + allowed - monotonic(), config.probe_timeout)
        try:
            async with asyncio.timeout(seconds) as limit:
                await config.setup(lease.connection)
        except TimeoutError as error:
            if not limit.expired():
                raise  # its own
            with self.lock:
                raise self.timed_out_locked(started, allowed, "'setup' has not ended") from error
        self._forget_setup(lease)

    @staticmethod
    def _forget_setup(lease: AsyncpgLease) -> None:
        # What it ran is the pool's doing, and is to be there for each lease: not to be reset
        # for its sake. What nothing undoes is spoiled by it all the same.
        lease.dirty, lease.ran, lease.statement = None, False, None

    def _not_acquired(self, lease: AsyncpgLease, error: BaseException, started: float) -> None:
        # Whatever went wrong between the hand-over and the end: a probe or `setup` that failed or
        # was cancelled, where nobody knows what state the connection is in.
        if lease.connection is not None and not lease.released:
            self.end_and_terminate(lease, "discarded")
        if (kind := _REFUSALS.get(type(error))) is not None:
            waited = monotonic() - started
            if self.pool.context is not None:
                tell_refused(self.pool.context(), cast(PoolError, error))
            self.pool.events.tell("pool_timeout", pool=self.pool.name, kind=kind, waited=waited)

    def end_and_terminate(self, lease: AsyncpgLease, reason: str) -> None:
        """End a lease and close its connection. In `Release`."""
        raise NotImplementedError

    async def _find_living(self, lease: AsyncpgLease, started: float, allowed: float) -> None:
        """Probe what is lent, and go on, through the queue, until something lives."""
        again = False
        while True:
            physical = await self._queue(lease, started, allowed, again)
            reason = await self._unusable(physical, started + allowed)
            if reason is None:
                return
            self._evict(lease, physical, reason)
            again = True

    async def _queue(
        self, lease: AsyncpgLease, started: float, allowed: float, again: bool
    ) -> Physical:
        """Return an idle connection, or one that came while queued. Lent, but not yet probed."""
        pool, loop = self.pool, self.loop
        saturates = False
        with self.lock:
            if self.closing or pool.ended:
                raise self.closed_error()
            if self.idle and (again or not self.waiters) and not pool.paused_locked():
                physical = self.idle.pop()
                self.lend_locked(lease, physical, monotonic())
                return physical
            self._refuse_locked(started, allowed, again)
            waiter = Waiter(loop.create_future(), lease, monotonic())
            self.waiters[waiter] = None
            if again:
                self.waiters.move_to_end(waiter, last=False)
            self._told_full = self._told_full and len(self.waiters) > 1
            if len(self.out) >= pool.max_size and not self._told_full:
                self._told_full = saturates = True
            starts, paused = self.plan_locked(urged=True), pool.paused_locked()
            waiters = len(self.waiters)
        left = started + allowed - monotonic()
        timer = loop.call_later(max(left, 0.0), self._expire, waiter, started, allowed)
        try:
            if saturates:
                pool.events.tell("pool_saturated", pool=pool.name, waiters=waiters)
            if paused:
                pool.end_pause_on(loop)
            self.start_connects(starts)
            await waiter.future
        except BaseException:
            self._leave(waiter)
            raise
        finally:
            timer.cancel()
        assert waiter.physical is not None
        pool.events.tell("lease_waited", pool=pool.name, seconds=monotonic() - waiter.since)
        return waiter.physical

    def _refuse_locked(self, started: float, allowed: float, again: bool) -> None:
        """Raise for who must not queue."""
        if again:
            return
        if allowed <= 0:
            raise self.timed_out_locked(started, allowed)
        limit = self.pool.config.max_waiting
        if limit and len(self.waiters) >= limit:
            self.ledger.too_many_waiters += 1
            stats = self.pool.stats_locked(monotonic())
            raise TooManyWaiters(
                f"pool {self.pool.name!r}: {len(self.waiters)} are waiting already, which is its "
                f"MAX_WAITING ({stats.summary()})",
                pool=self.pool.name,
                stats=stats,
            )

    def _expire(self, waiter: Waiter, started: float, allowed: float) -> None:
        """Tell a waiter that its time is up."""
        with self.lock:
            if self.waiters.pop(waiter, False) is False or waiter.future.done():
                return
            error = self.timed_out_locked(started, allowed)
        waiter.future.set_exception(error)

    def _leave(self, waiter: Waiter) -> None:
        """Leave the queue; pass on what was handed over just as its task was cancelled."""
        with self.lock:
            self.waiters.pop(waiter, None)
            if (physical := waiter.physical) is not None:
                self.ledger.revoke_locked(waiter.lease)
        if physical is not None:
            # It has not been touched: there is nothing to clear away.
            waiter.lease.physical = None
            physical.connection._proxy = None
            self.come_home(physical, physical.used_at)

    async def _unusable(self, physical: Physical, deadline: float) -> str | None:
        """Return None for a connection that can be handed out, else the reason to close it."""
        config, now = self.pool.config, monotonic()
        if physical.connection.is_closed():
            return "dead"
        if now - physical.used_at <= config.bypass and physical.quiet:
            return None
        if await physical.answers(min(config.probe_timeout, max(deadline - now, 0.01))):
            return None
        return "dead" if physical.connection.is_closed() else "silent"

    def _evict(self, lease: AsyncpgLease, physical: Physical, reason: str) -> None:
        """Drop a connection found dead before its first use, and its like among the idle."""
        gone = [(physical, reason)]
        with self.lock:
            self.ledger.revoke_locked(lease)
            lease.physical = None
            self.out.discard(physical)
            for other in list(self.idle):
                # Silence is the network's: what was last heard of before it began is as silent.
                dead = other.used_at <= physical.used_at if reason == "silent" else not other.quiet
                if dead:
                    self.idle.remove(other)
                    gone.append((other, reason))
            self.ledger.closed[reason] += len(gone)
            starts = self.plan_locked()
        logger.warning(
            "pool=%s event=evicted count=%d reason=%s", self.pool.name, len(gone), reason
        )
        for each, why in gone:
            self.terminate(each, why)
        self.start_connects(starts)

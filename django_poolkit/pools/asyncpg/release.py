"""Release: the way home. Nothing is awaited where there is nothing to clear away."""

from __future__ import annotations

import asyncio
import logging
import warnings
from asyncio import _get_running_loop
from contextlib import suppress
from time import monotonic
from typing import Any, Final

from django_poolkit.pools.asyncpg.acquire import Acquire
from django_poolkit.pools.asyncpg.errors import LeaseReleased, WrongLoop
from django_poolkit.pools.asyncpg.lease import AsyncpgLease
from django_poolkit.pools.asyncpg.physical import CUT_TIMEOUT, PROBE, Physical
from django_poolkit.pools.errors import PoolWarning
from django_poolkit.pools.lease import acquired_at, format_stack

logger = logging.getLogger("django_poolkit.pool")

# One round trip. DISCARD TEMP comes last: it is the only one that waits for locks. What
# asyncpg has prepared stays, and so does what came with the start-up packet.
RESET: Final = (
    "SELECT pg_catalog.pg_advisory_unlock_all(); CLOSE ALL; UNLISTEN *; "
    "RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL; DISCARD SEQUENCES; DISCARD TEMP"
)
# Seconds. A server that takes longer is in no state to be used.
_TIMEOUT: Final = 5.0
# Seconds that the server has to end a statement that is cancelled, before it is asked again.
_CANCEL_PATIENCE: Final = 0.5


class Release(Acquire):
    """Takes connections back. `Line` is the whole."""

    async def release(self, lease: AsyncpgLease) -> None:
        """Take a connection back. As `AsyncpgLease.release()`."""
        physical = self._end(lease)
        if self._at_rest(lease, physical):
            self.come_home(physical, monotonic())
            return
        # Its own task: who is cancelled while he waits leaves it to come to its end.
        await asyncio.shield(self.spawn_for(physical, self._clean(lease, physical)))

    def take_back(self, lease: AsyncpgLease) -> bool:
        """Take a connection back that is at rest, to stay, and nobody's who waits.

        Returns False, and does nothing, where `release()` has to see to it. Spelled out as
        `at_once()`: nearly always it is no more than this.
        """
        pool, physical = self.pool, lease.physical
        if (
            lease.released or physical is None
            or lease.dirty is not None or lease.spoiled is not None
            or lease.running or lease.later or lease.cut or lease.overdue
            or self.waiters or self.closing
            or not pool.plain_home or pool.paused_until or pool.ended or pool.events.of_leases
            or physical.generation != pool.generation
            or _get_running_loop() is not self.loop
        ):  # fmt: skip
            return False
        connection: Any = physical.connection
        protocol, now = connection._protocol, monotonic()
        if (
            connection.is_closed()
            or connection._top_xact is not None
            or connection._log_listeners or connection._termination_listeners
            or connection._query_loggers
            or protocol.is_in_transaction() or protocol._is_cancelling()
            or protocol.queries_count >= pool.config.max_queries
            or now >= physical.expires_at
        ):  # fmt: skip
            return False
        idle, out, ledger = self.idle, self.out, self.ledger
        with self.lock:
            if len(idle) + len(out) + len(self.connecting) > pool.max_size:
                return False
            lease.released = True
            lease._connection._con = connection._proxy = None
            lease._connection = lease.physical = None
            connection._pool_release_ctr += 1  # statements and cursors of the lease are void
            ledger.live.pop(lease.key, None)
            if ledger.reported:
                ledger.reported.discard(lease.key)
            ledger.use.observe(now - lease.since)
            ledger.settled_at = physical.used_at = now
            out.discard(physical)
            idle.append(physical)
        return True

    async def discard(self, lease: AsyncpgLease) -> None:
        """Close a connection instead of keeping it. As `AsyncpgLease.discard()`."""
        physical = self._end(lease)
        await asyncio.shield(self.spawn_for(physical, self._cut_off(lease, physical, "discarded")))

    def end_and_terminate(self, lease: AsyncpgLease, reason: str) -> None:
        """End a lease and close its connection: at once, or as soon as nothing runs there."""
        physical = self._end(lease)
        if lease.may_run:
            self.spawn_for(physical, self._cut_off(lease, physical, reason))
            return
        self.drop(physical, reason)
        self.terminate(physical, reason)

    def _end(self, lease: AsyncpgLease) -> Physical:
        """End a lease: nothing reaches the connection through it any more."""
        if lease.released or lease.physical is None:
            raise LeaseReleased(
                f"this lease of pool {self.pool.name!r} has been given back already",
                pool=self.pool.name,
            )
        if asyncio._get_running_loop() is not self.loop:
            raise WrongLoop(
                f"this lease of pool {self.pool.name!r} was acquired on another event loop, and "
                "can be released there alone",
                pool=self.pool.name,
            )
        return self._strike_out(lease)

    def _strike_out(self, lease: AsyncpgLease) -> Physical:
        physical, proxy, now = lease.physical, lease._connection, monotonic()
        assert physical is not None
        lease.released = True
        lease._connection = lease.physical = None
        proxy._con = None
        connection: Any = physical.connection
        connection._proxy = None
        connection._pool_release_ctr += 1  # statements and cursors of the lease are void
        with self.lock:
            self.ledger.settle_locked(lease, now)
        pool = self.pool
        if lease.overdue:
            logger.info(
                "pool=%s event=overdue_returned seconds=%.1f thread=%s lease=%d",
                pool.name, now - lease.since, lease.thread, lease.key,
            )  # fmt: skip
        if pool.events.of_leases:
            pool.events.tell("lease_released", pool=pool.name, seconds=now - lease.since)
        return physical

    def _at_rest(self, lease: AsyncpgLease, physical: Physical) -> bool:
        """Return whether the connection can be lent again as it is."""
        connection: Any = physical.connection
        if physical.closing is not None:
            return False  # it has been killed, and the server is asked to stop what runs
        if connection.is_closed():
            return True  # and will not be lent again
        config = self.pool.config
        return not (
            lease.dirty is not None
            or lease.spoiled is not None
            or lease.running
            or lease.later
            or lease.cut
            or (lease.ran and config.reset_policy == "always")
            or config.reset is not None
            or connection._top_xact is not None
            or connection._log_listeners
            or connection._termination_listeners
            or connection._query_loggers
            or connection._protocol.is_in_transaction()
            or connection._protocol._is_cancelling()
        )

    async def _clean(self, lease: AsyncpgLease, physical: Physical) -> None:
        """Bring a connection to rest and home, or close it."""
        reason: str | None = "reset_failed"
        try:
            if lease.running or lease.cut or physical.closing is not None:
                reason = "active"
            elif lease.spoiled is not None:
                reason = lease.spoiled
            else:
                async with asyncio.timeout(_TIMEOUT):
                    reason = await self._reset(lease, physical)
        except Exception as error:
            if lease.later and "another operation" in str(error):
                reason = "active"
            lease.later = True  # it is the reset that may run on
            name = type(error).__name__
            logger.warning("pool=%s event=reset_failed error=%s", self.pool.name, name)
        except BaseException as error:  # the loop is ending, and has cancelled this
            self.drop(physical, "reset_failed")
            self.terminate(physical, "reset_failed")
            if lease.may_run and isinstance(error, asyncio.CancelledError):
                await physical.stop(CUT_TIMEOUT)
            raise
        if reason is None:
            self.come_home(physical, monotonic())
            return
        if reason == "active":
            if not lease.cut and physical.closing is None:
                logger.warning("pool=%s event=released_while_active", self.pool.name)
            lease.cut = True
        await self._cut_off(lease, physical, reason)

    async def _reset(self, lease: AsyncpgLease, physical: Physical) -> str | None:
        """Return None for a connection at rest, else the reason to close it."""
        connection: Any = physical.connection
        config, protocol = self.pool.config, connection._protocol
        if protocol._is_cancelling():  # asyncpg has asked the server to stop what ran
            ended = asyncio.ensure_future(protocol._wait_for_cancellation())
            if not (await asyncio.wait({ended}, timeout=_CANCEL_PATIENCE))[0]:
                ended.cancel()
                lease.cut = True
                return "active"
        if connection.is_closed():
            return "broken"
        for callbacks in (
            connection._listeners, connection._log_listeners,
            connection._termination_listeners, connection._query_loggers,
        ):  # fmt: skip
            callbacks.clear()
        statements = []
        if protocol.is_in_transaction() or connection._top_xact is not None:
            logger.warning("pool=%s event=rollback reason=open_transaction", self.pool.name)
            connection._top_xact = None
            statements.append("ROLLBACK")
        full = lease.dirty is not None or (lease.ran and config.reset_policy == "always")
        if full:
            statements += [RESET, *filter(None, [physical.restore])]
        if statements or lease.later:
            # A probe where there is nothing to do: it is refused while a prepared statement or a
            # cursor of the lease runs in another task.
            await connection.execute("; ".join(statements) or PROBE)
        if full:
            with self.lock:
                self.ledger.resets += 1
        if config.reset is not None:
            await config.reset(connection)
        return "unfinished" if protocol.is_in_transaction() else None

    async def _cut_off(self, lease: AsyncpgLease, physical: Physical, reason: str) -> None:
        """Close a connection, and have the server stop what runs on it."""
        try:
            open_still = lease.may_run and not physical.connection.is_closed()
            if open_still or physical.closing is not None:
                await physical.close(CUT_TIMEOUT)
        finally:
            self.drop(physical, reason)
            self.terminate(physical, reason)

    # -- leases that were dropped

    def adopt(self) -> None:
        """Take back what finalizers could only report. Called on the loop."""
        while self.orphans:
            lease = self.orphans.popleft()
            if lease.released or lease.physical is None:
                continue
            stack = format_stack(lease.stack)
            seconds = lease.seconds()
            physical = self._strike_out(lease)
            with self.lock:
                self.ledger.leaks += 1
            self._tell_of_leak(lease, stack, seconds)
            self.spawn_for(physical, self._clean(lease, physical))

    def _tell_of_leak(self, lease: AsyncpgLease, stack: tuple[str, ...], seconds: float) -> None:
        pool = self.pool
        pool.events.tell(
            "lease_leaked", pool=pool.name, kind="dropped", seconds=seconds, thread=lease.thread,
            where=None, stack=stack,
        )  # fmt: skip
        text = (
            f"pool {pool.name!r}: a lease was dropped after {seconds:.1f} s without being released,"
            f" and has been taken back. {acquired_at(stack)}"
        )
        with suppress(PoolWarning):  # of a filter's making, which on a loop could only disturb
            warnings.warn(text, PoolWarning, stacklevel=2)

"""What a loop does for the pool by the clock: retire, replace, probe, and look for leaks."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from time import monotonic
from typing import Final

from django_poolkit.pools.asyncpg.config import AsyncpgConfig
from django_poolkit.pools.asyncpg.lease import AsyncpgLease, describe
from django_poolkit.pools.asyncpg.physical import Physical
from django_poolkit.pools.asyncpg.release import Release
from django_poolkit.pools.lease import acquired_at

logger = logging.getLogger("django_poolkit.pool")

_SHORTEST_ROUND: Final = 0.05
_LONGEST_ROUND: Final = 30.0


def interval(config: AsyncpgConfig) -> float:
    """Return the seconds between two rounds: a quarter of the shortest time to be kept."""
    times = (
        config.max_lifetime, config.max_inactive_connection_lifetime, config.keepalive,
        config.leak_after,
    )  # fmt: skip
    shortest = min(time for time in times if time)
    return min(_LONGEST_ROUND, max(_SHORTEST_ROUND, shortest / 4))


class Upkeep(Release):
    """Keeps house on one loop. `Line` is the whole."""

    def keep_house(self) -> None:
        """Make a round, and come again after an interval."""
        # Weakly: a pool that is dropped is not to be kept for its timer.
        method = weakref.WeakMethod(self.keep_house)
        self.loop.call_later(interval(self.pool.config), _call, method)
        if self.closing:
            return
        self.adopt()
        self._report_overdue()
        with self.lock:
            if not any(line.orphans for line in self.pool.lines.values()):  # they have come back
                self.ledger.purge_locked()
            gone, replace = self._sort_locked(monotonic())
            probe = self._to_probe_locked(monotonic())
            starts = self.plan_locked()
        self.close_soon(gone)
        for physical in replace:
            self.start_connects(1, physical)
        self.start_connects(starts)
        for physical in probe:
            self.spawn_for(physical, self._probe(physical))

    def _sort_locked(self, now: float) -> tuple[list[tuple[Physical, str]], list[Physical]]:
        """Return the idle ones that go now, and those that go when another is there."""
        pool, gone, replace = self.pool, [], []
        rest = pool.config.max_inactive_connection_lifetime
        size = self.size_locked()
        for physical in list(self.idle):
            reason = "dead" if physical.connection.is_closed() else None
            if reason is None and now >= physical.expires_at:
                reason = "max_lifetime"
                if size <= pool.min_size and size < pool.max_size:
                    if not physical.replacing:
                        physical.replacing = True
                        replace.append(physical)
                    continue
            elif reason is None and rest and now - physical.used_at > rest and size > pool.min_size:
                reason = "max_idle"
            if reason is not None:
                self.idle.remove(physical)
                self.ledger.closed[reason] += 1
                gone.append((physical, reason))
                size -= 1
        return gone, replace

    def _to_probe_locked(self, now: float) -> list[Physical]:
        """Take out of the idle ones those that have been silent for long, or have news."""
        keepalive = self.pool.config.keepalive
        found = [
            physical
            for physical in self.idle
            if not physical.replacing
            and ((keepalive and now - physical.probed_at >= keepalive) or not physical.quiet)
        ]
        for physical in found:
            self.idle.remove(physical)
            self.out.add(physical)
        return found

    async def _probe(self, physical: Physical) -> None:
        """Ask one whether it lives, out of everybody's way."""
        reason: str | None = "silent"
        try:
            if await physical.answers(self.pool.config.probe_timeout):
                reason = None
            elif physical.connection.is_closed():
                reason = "dead"
        finally:
            if reason is None:
                # Being probed is no use: what is never used shall reach its idle time.
                physical.probed_at = monotonic()
                self.come_home(physical, physical.used_at)
            else:
                self.drop(physical, reason)
                self.terminate(physical, reason)

    def _report_overdue(self) -> None:
        after = self.pool.config.leak_after
        if after is None:
            return
        with self.lock:
            overdue = self.ledger.overdue_locked(after, monotonic())
        for lease in overdue:
            assert isinstance(lease, AsyncpgLease)
            found = describe(lease)
            logger.warning(
                "pool=%s event=overdue seconds=%.1f thread=%s where=%s statement=%s lease=%d. %s",
                self.pool.name, found.seconds, found.thread, found.where, found.statement,
                found.key, acquired_at(found.stack),
            )  # fmt: skip
            self.pool.events.tell(
                "lease_leaked", pool=self.pool.name, kind="overdue", seconds=found.seconds,
                thread=found.thread, where=found.where, stack=found.stack,
            )  # fmt: skip


def _call(method: weakref.WeakMethod[Callable[[], None]]) -> None:
    if (found := method()) is not None:
        found()

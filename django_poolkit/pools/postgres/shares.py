"""Shares: how many connections of a pool one kind of work may hold at once.

Nothing is kept that could drift: who holds what is counted from the live leases each time, so a
lease that dies, is taken away or is lost frees its part of the share with its connection. A pool
has as many leases as connections, and few shares.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from operator import attrgetter

from django_poolkit.pools import share
from django_poolkit.pools.ledger import Ledger
from django_poolkit.pools.postgres.waiters import Lanes, Waiter
from django_poolkit.pools.stats import ShareStats

# What floating point may add up to: 0.3 of 10 are 3.
_SAME = 1e-9
_share = attrgetter("share")


def _nobody_knows() -> str | None:
    return None


class Shares:
    """The shares of one pool. All but `of_caller()` is called under the pool's lock."""

    def __init__(self, parts: Mapping[str, float]) -> None:
        self._parts = dict(parts)
        self.label: Callable[[], str | None] = _nobody_knows
        """Called as somebody acquires who has named no share by hand: what kind of work it is.

        Outside every lock; may not use the pool.
        """

    def of_caller(self) -> str | None:
        """Return the share that an acquire counts against, None where against none."""
        name = share.current() or self.label()
        return name if name in self._parts else None

    def limit(self, name: str, max_size: int) -> int:
        """Return how many connections a share may hold: at least one."""
        return max(1, math.ceil(self._parts[name] * max_size - _SAME))

    def free(self, ledger: Ledger, max_size: int) -> dict[str, int]:
        """Return how many connections each share may still take; below 0 after a `resize()`."""
        held = self._held(ledger)
        return {name: self.limit(name, max_size) - held[name] for name in self._parts}

    @staticmethod
    def _held(ledger: Ledger) -> Counter[str | None]:
        return Counter(map(_share, ledger.known_locked()))

    def pop(self, waiting: Lanes, ledger: Ledger, max_size: int) -> Waiter | None:
        """Take out of the queue the first whose share is not used up, None where there is none."""
        free = self.free(ledger, max_size)
        return waiting.pop_first(name for name in waiting.lanes if name is None or free[name] > 0)

    def wanting(self, waiting: Lanes, ledger: Ledger, max_size: int) -> int:
        """Return how many of the queue could use a connection now."""
        free = self.free(ledger, max_size)
        return sum(
            len(lane) if name is None else max(0, min(len(lane), free[name]))
            for name, lane in waiting.lanes.items()
        )

    def stats(self, waiting: Lanes, ledger: Ledger, max_size: int) -> dict[str, ShareStats]:
        """Return the figures of each share."""
        held = self._held(ledger)
        return {
            name: ShareStats(
                used=held[name],
                max_used=self.limit(name, max_size),
                waiters=len(waiting.lanes.get(name, ())),
            )
            for name in self._parts
        }

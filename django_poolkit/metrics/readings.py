"""The figures of this process, read from its pools when somebody asks.

A counter that goes back looks like a restart to those who add up its growth, and makes them count
all of it once more. So what is shown here only grows, while the counts of pools do not: a pool may
be closed and made again (Celery does so around each task), and a lease that turns out to be of no
use before its owner has it is counted back.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from django_poolkit import registry
from django_poolkit.aio.slow import slow_slices
from django_poolkit.metrics.families import (
    COLLECT_ERRORS,
    DECISIONS,
    FAMILIES,
    FLOORS,
    LOSSES,
    READ_ONLY,
    SLOW_SLICES,
    Family,
    Figures,
    Series,
    merged,
)
from django_poolkit.metrics.statuses import Value
from django_poolkit.pools.forks import in_child
from django_poolkit.routing import figures as routing
from django_poolkit.routing import outage
from django_poolkit.session_table import Measured

logger = logging.getLogger("django_poolkit.metrics")

Counted = dict[tuple[Family, Series], Value]


class Readings:
    """Reads pools. Opens none, and is not disturbed by one that cannot be read."""

    def __init__(
        self,
        table: Iterable[Measured],
        floors: Callable[[], Mapping[Series, int]] = dict,
        decisions: Callable[[], Mapping[Series, int]] = dict,
        read_only: Callable[[], Mapping[Series, int]] = dict,
        losses: Callable[[], Mapping[Series, int]] = dict,
        slow: Callable[[], Mapping[Series, int]] = dict,
    ) -> None:
        self._table = table
        self._others = {FLOORS: floors, DECISIONS: decisions, READ_ONLY: read_only}
        self._others |= {LOSSES: losses, SLOW_SLICES: slow}
        self.forget()

    def forget(self) -> None:
        """Begin at nothing, as the pools of a forked child do."""
        # Guards what follows. Reentrant: a finalizer may open a pool at any line.
        self._lock = threading.RLock()
        # What has been counted of each pool, also of those that have left the table since.
        self._counted: dict[Measured, Counted] = {}
        self._totals: Figures = {family: {} for family in FAMILIES if family.kind != "gauge"}
        self._errors: Counter[str] = Counter()

    def watch(self, pool: Measured) -> None:
        """Read this pool until it is closed, and once more then. Called before it opens."""
        with self._lock:
            self.take()  # those that are closed by now go, also where nobody else ever asks
            self._counted.setdefault(pool, {})

    def take(self) -> Figures:
        """Return the figures of all pools at this moment. Blocks for no more than their locks."""
        with self._lock:
            table = list(self._table)
            statuses = []
            for pool in dict.fromkeys([*table, *self._counted]):
                try:
                    stats = pool.stats()
                    status = stats.as_dict()
                    self._count(self._counted.setdefault(pool, {}), merged([status]))
                except Exception:
                    if not self._errors[pool.name]:
                        logger.exception("pool=%s event=collect_failed", pool.name)
                    self._errors[pool.name] += 1
                    continue
                statuses.append(status)
                self._errors.setdefault(pool.name, 0)
                if stats.state == "closed" and not stats.used and pool not in table:
                    self._counted.pop(pool, None)
            errors: dict[Series, Value] = {(name, ""): (n,) for name, n in self._errors.items()}
            totals = {family: dict(found) for family, found in self._totals.items()}
            others: Figures = {family: _single(read()) for family, read in self._others.items()}
            return merged(statuses) | totals | others | {COLLECT_ERRORS: errors}

    def _count(self, counted: Counted, figures: Figures) -> None:
        """Add to the totals what the counts of one pool have grown by."""
        for family, totals in self._totals.items():
            for series, now in figures[family].items():
                nothing = (0,) * len(now)
                before = counted.get((family, series), nothing)
                highest = counted[family, series] = tuple(map(max, before, now))
                growth = tuple(new - old for new, old in zip(highest, before, strict=True))
                totals[series] = family.merge(totals.get(series, nothing), growth)


def _single(counts: Mapping[Series, int]) -> dict[Series, Value]:
    return {series: (number,) for series, number in counts.items()}


class _Everything:
    """All that this process has, at the moment when it is asked."""

    def __iter__(self) -> Iterator[Measured]:
        return registry.measured()


readings: Final = Readings(
    _Everything(),
    routing.figures.read,
    routing.decisions.read,
    outage.read_only,
    routing.losses.read,
    slow_slices.read,
)
"""Those of all pools and client sessions of the process."""

in_child(readings.forget)

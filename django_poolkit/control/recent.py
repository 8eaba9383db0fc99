"""The last minute of each pool: rates and quantiles, from samples that the server's thread takes.

What happened since a process began says little about what happens now, so two snapshots are
compared: the present one, and the oldest that is not older than the window.
"""

from __future__ import annotations

import threading
from collections import deque
from time import monotonic
from typing import Any, Final
from weakref import WeakKeyDictionary

from django_poolkit import registry
from django_poolkit.pools.stats import HistogramStats, PoolStats

WINDOW: Final = 60.0
"""Seconds that are looked back at most."""
SHORTEST: Final = 1.0
"""Seconds of which a rate is told at least, where there is a longer stretch beside them."""
_QUANTILES: Final = {"p50": 0.50, "p95": 0.95, "p99": 0.99}


class Recent:
    """Samples of all pools and client sessions of the process."""

    def __init__(self) -> None:
        # Guards the samples: the server's thread takes them, and so does who opens a pool, which
        # a finalizer may do at any line.
        self._lock = threading.RLock()
        self._samples: WeakKeyDictionary[Any, deque[tuple[float, PoolStats]]] = WeakKeyDictionary()

    def sample(self) -> None:
        """Take one snapshot of each pool. Blocks no longer than their locks are held."""
        for pool in registry.measured():
            now, stats = monotonic(), pool.stats()
            with self._lock:
                samples = self._samples.setdefault(pool, deque())
                samples.append((now, stats))
                while now - samples[0][0] > WINDOW:
                    samples.popleft()

    def of(self, pool: Any, stats: PoolStats) -> dict[str, Any]:
        """Return what has happened in a pool lately, up to the snapshot `stats` of now.

        Rates per second, and the quantiles of what was waited and held. A quantile is None where
        nothing was counted, and where it is beyond the last bucket; `counts` are those of the
        buckets, and `sum` the seconds in them, so that the windows of several processes can be
        added up. `asked` has, for each stretch between two samples, its length in seconds and
        how many connections were asked for per second, in vain or not.
        """
        now = monotonic()
        with self._lock:
            samples = [each for each in self._samples.get(pool, ()) if now - each[0] <= WINDOW]
        then, before = samples[0] if samples else (now - min(WINDOW, registry.process.age), None)
        seconds = max(now - then, 0.001)
        marks = [(taken, _asked(each)) for taken, each in samples] or [(then, 0)]
        acquired, timeouts = stats.acquired, stats.timeouts
        if before is not None:
            acquired, timeouts = acquired - before.acquired, timeouts - before.timeouts
        return {
            "seconds": seconds,
            "acquires_per_second": max(0, acquired) / seconds,
            "timeouts_per_second": timeouts / seconds,
            "asked": _stretches([*marks, (now, _asked(stats))]),
            "wait": _quantiles(stats.waits, None if before is None else before.waits),
            "use": _quantiles(stats.use, None if before is None else before.use),
        }

    def after_fork(self) -> None:
        """Begin anew in a forked child."""
        self.__init__()  # type: ignore[misc]


def _asked(stats: PoolStats) -> int:
    return stats.acquired + stats.timeouts + stats.too_many_waiters


def _stretches(marks: list[tuple[float, int]]) -> list[tuple[float, float]]:
    """Return the seconds from each mark to the next, and what was asked for per second in them."""
    found: list[tuple[float, float]] = []
    begun, asked = marks[0]
    for at, count in marks[1:]:
        # What is shorter says nothing of a rate: it goes with the next, or to the last.
        if at - begun < SHORTEST and (at, count) != marks[-1]:
            continue
        length, more = at - begun, float(max(0, count - asked))
        if length < SHORTEST and found:
            before, rate = found.pop()
            length, more = length + before, more + before * rate
        length = max(length, 0.001)
        found.append((round(length, 3), round(more / length, 3)))
        begun, asked = at, count
    return found


def _quantiles(now: HistogramStats, before: HistogramStats | None) -> dict[str, Any]:
    counts = now.counts
    if before is not None:
        # A probe that ends in between can take an acquire back.
        pairs = zip(now.counts, before.counts, strict=True)
        counts = tuple(max(0, new - old) for new, old in pairs)
    spent = max(0.0, now.sum - (0.0 if before is None else before.sum))
    window = HistogramStats(now.buckets, counts, spent)
    found: dict[str, Any] = {"count": window.count, "counts": counts, "sum": spent}
    for name, share in _QUANTILES.items():
        value = window.quantile(share)
        known = window.count > 0 and value <= now.buckets[-1]
        found[name] = value if known else None
    return found

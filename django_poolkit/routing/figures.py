"""How often reads went which way, and what kept visitors from reading before their own writes."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from itertools import count
from typing import Final, Literal

from django_poolkit.pools.forks import in_child

Outcome = Literal["fast", "waited", "primary", "pinned"]
"""How a scope that has to see something was settled: a replica was known to have it, or came to
have it in time; or none did, so that the primary is read; or that is read by a time pin."""
Carrier = Literal["cache", "public"]
"""What does not carry a floor: a cache that fails, an answer that a shared cache may keep."""


class Figures:
    """Counts of this process, which only grow. Never block for longer than an addition."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # reentrant, for finalizers
        self._counts: Counter[tuple[str, str]] = Counter()

    def count(self, cluster: str, outcome: str) -> None:
        """Add one."""
        with self._lock:
            self._counts[cluster, outcome] += 1

    def read(self) -> Mapping[tuple[str, str], int]:
        """Return the counts by cluster and outcome."""
        with self._lock:
            return dict(self._counts)

    def after_fork(self) -> None:
        """Begin anew in a forked child."""
        self.__init__()  # type: ignore[misc]


class Decisions:
    """What the router has answered, by cluster and reason. Counts only grow.

    Each question adds one, so it takes no lock: a thread that is switched off while it holds one
    would keep all others waiting.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # held while counts are read
        self._steps: dict[tuple[str, str], count[int]] = {}
        self._looks: Counter[tuple[str, str]] = Counter()  # guarded by _lock

    def count(self, cluster: str, reason: str) -> None:
        """Add one."""
        steps = self._steps.get((cluster, reason))
        if steps is None:
            steps = self._steps.setdefault((cluster, reason), count())
        next(steps)  # one step of C, which no other thread can come between

    def read(self) -> Mapping[tuple[str, str], int]:
        """Return the counts by cluster and reason."""
        found = {}
        with self._lock:
            for key, steps in list(self._steps.items()):
                # To look is a step as well.
                found[key] = next(steps) - self._looks[key]
                self._looks[key] += 1
        return found

    def after_fork(self) -> None:
        """Begin anew in a forked child."""
        self.__init__()  # type: ignore[misc]


figures: Final = Figures()
"""Those of this process."""
decisions: Final = Decisions()
"""Those of this process."""
losses: Final = Figures()
"""How often the primary of a cluster was lost, by reason."""

in_child(figures.after_fork)
in_child(decisions.after_fork)
in_child(losses.after_fork)


def settled(cluster: str, outcome: Outcome) -> None:
    """Count a scope that had something to see of a cluster."""
    figures.count(cluster, outcome)


def pinned(cluster: str) -> None:
    """Count a time pin that was made since no position could be had."""
    figures.count(cluster, "pin_made")


def carrier_failed(carrier: Carrier) -> None:
    """Count a floor that was not carried."""
    figures.count("", f"{carrier}_failed")

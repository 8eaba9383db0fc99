"""The last minutes of a process: figures of its pools every few seconds, and what went wrong.

For those who draw charts. What is kept is bounded, whatever happens.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from time import monotonic
from typing import Any, Final
from weakref import WeakKeyDictionary

from django_poolkit import registry

WINDOW: Final = 600.0
"""Seconds that are looked back at most."""
MOST_EVENTS: Final = 50
"""Events that are kept, the newest of them."""
TOGETHER: Final = 10.0
"""Seconds within which the same event is told once, with a count: an outage has thousands."""

# One more than are in the window by the server's ticks of 5 s, should some of them come early.
_MOST_SAMPLES: Final = 130
_EVENTS: Final = frozenset({
    "pool_timeout", "pool_saturated", "lease_leaked", "replica_evicted", "replica_admitted",
    "primary_lost", "primary_found", "connection_closed",
})  # fmt: skip
# What connections die of while all is well, or because somebody wanted it.
_USUAL_ENDS: Final = frozenset({
    "max_lifetime", "max_idle", "max_queries", "recycled", "resized", "pool_closed", "discarded",
    "loaded", "prepared", "codecs", "pooler",
})  # fmt: skip


@dataclass(slots=True)
class Event:
    """Something that happened to a pool, once or several times in a row."""

    at: float
    """When it last happened, by the wall clock."""
    pool: str
    event: str
    """As of the signals, or a command of `poolctl`."""
    reason: str | None
    where: str | None
    """Method and view of the request, where it is of one."""
    count: int


class Lately:
    """What is remembered of this process."""

    def __init__(self) -> None:
        # Guards the two: written by the server's thread and by whoever something happens to,
        # which may be a finalizer at any line.
        self._lock = threading.RLock()
        self._samples: WeakKeyDictionary[Any, deque[tuple[float, int, int, int]]] = (
            WeakKeyDictionary()
        )
        self._events: deque[Event] = deque(maxlen=MOST_EVENTS)

    def sample(self) -> None:
        """Take the figures of each pool. Blocks no longer than their locks are held."""
        for pool in registry.measured():
            stats = pool.stats()
            with self._lock:
                samples = self._samples.setdefault(pool, deque(maxlen=_MOST_SAMPLES))
                samples.append((monotonic(), stats.used, stats.max_size, stats.waiters))

    def of(self, pool: Any) -> list[tuple[float, int, int, int]]:
        """Return the samples of a pool, oldest first: their age in seconds, then what was used,
        `max_size`, and who waited."""
        now = monotonic()
        with self._lock:
            samples = list(self._samples.get(pool, ()))
        return [(round(now - at, 3), *rest) for at, *rest in samples if now - at <= WINDOW]  # type: ignore[misc]

    def observe(self, event: str, facts: Mapping[str, Any]) -> None:
        """Keep an event of a pool, if somebody on call would want to know it."""
        if event not in _EVENTS:
            return
        reason = facts.get("reason") or facts.get("kind")
        if reason not in _USUAL_ENDS:
            self.note(str(facts["pool"]), event, reason, facts.get("where"))

    def note(self, pool: str, event: str, reason: Any = None, where: str | None = None) -> None:
        """Keep that something happened to a pool."""
        now, reason = time.time(), None if reason is None else str(reason)
        with self._lock:
            for known in self._events:
                same = (known.pool, known.event, known.reason) == (pool, event, reason)
                if same and now - known.at <= TOGETHER:
                    known.at, known.where, known.count = now, where, known.count + 1
                    return
            self._events.append(Event(now, pool, event, reason, where, 1))

    def events(self) -> list[dict[str, Any]]:
        """Return what happened, in the order in which each began."""
        with self._lock:
            return [asdict(event) for event in self._events]

    def after_fork(self) -> None:
        """Begin anew in a forked child."""
        self.__init__()  # type: ignore[misc]

"""One look at all processes for all who have the page open, once a second at most."""

from __future__ import annotations

import threading
from time import monotonic
from typing import Final

from django_poolkit.control import collect
from django_poolkit.control.collect import Report
from django_poolkit.pools.forks import in_child

FRESH: Final = 1.0
"""Seconds for which a report is shown again."""

# Guards the two. Held while the processes are asked: who comes meanwhile takes what is found, so
# that nobody waits for longer than one look takes, and the processes are asked once.
_lock = threading.Lock()
_seen: tuple[float, Report] | None = None


def report() -> Report:
    """Return how the pools of all processes are. Blocks for about a second at most."""
    global _seen
    with _lock:
        if _seen is None or monotonic() - _seen[0] > FRESH:
            found = collect.look()
            _seen = monotonic(), found
        return _seen[1]


def forget() -> None:
    """Have the next look be a new one: something has been done."""
    global _seen
    with _lock:
        _seen = None


def _after_fork() -> None:
    global _lock, _seen
    _lock, _seen = threading.Lock(), None


in_child(_after_fork)

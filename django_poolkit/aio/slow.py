"""Slow slices: what held the event loop for too long is logged with its stack, and counted."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Mapping
from time import monotonic
from typing import TYPE_CHECKING, Final

from django_poolkit.pools.forks import in_child

if TYPE_CHECKING:
    from django_poolkit.pools.bridge.slices import SlowSlice

logger = logging.getLogger("django_poolkit.aio")

PAUSE: Final = 10.0
"""Seconds before another slow slice of the same function, at the same place, is logged."""
# The outermost frame of ours in a call: the one within is that of the function that was given.
_OUTERMOST: Final = " Call._run"
# The same where a block of async code begins or ends: with its callbacks, for one.
_BLOCKS: Final = (" Block._open", " Block._close")
_NAMES: Final = {
    "AsyncAtomic._begin": "aatomic", "AsyncAtomic._end": "aatomic",
    "apinned._begin": "apinned", "apinned._end": "apinned",
}  # fmt: skip
_UNKNOWN: Final = "?"


class SlowSlices:
    """Those of this process. Told on the threads of loops, and read by any."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # reentrant, for finalizers
        self._counts: Counter[str] = Counter()  # guarded by _lock, as what follows
        self._logged: dict[tuple[str, str], float] = {}

    def tell(self, slow: SlowSlice) -> None:
        """Count one, and log it unless one of the same kind has just been logged."""
        call, now = called(slow.stack), monotonic()
        kind = call, slow.stack[0] if slow.stack else ""
        with self._lock:
            self._counts[call] += 1
            if now - self._logged.get(kind, -PAUSE) < PAUSE:
                return
            self._logged[kind] = now
        where = "".join(f"\n  {line}" for line in slow.stack)
        logger.warning(
            "event=slow_slice seconds=%.3f call=%s task=%s%s", slow.seconds, call, slow.task, where
        )

    def read(self) -> Mapping[tuple[str, str], int]:
        """Return how many there were, by function."""
        with self._lock:
            return {(call, ""): count for call, count in self._counts.items()}

    def forget(self) -> None:
        """Begin anew, as in a forked child."""
        self.__init__()  # type: ignore[misc]


slow_slices: Final = SlowSlices()

in_child(slow_slices.forget)


def watch(seconds: float | None) -> None:
    """Have calls looked at that hold a loop for longer than this. None: have none looked at."""
    from django_poolkit.pools.bridge import slices  # loads greenlet

    if seconds is None:
        slices.unwatch()
    else:
        slices.watch(seconds, slow_slices.tell)


def called(stack: tuple[str, ...]) -> str:
    """Return the function that was given to the bridge, out of a stack, innermost first.

    For the beginning and the end of a block, its name.
    """
    inner = _UNKNOWN
    for line in stack:
        if line.endswith(_OUTERMOST):
            return inner
        if line.endswith(_BLOCKS):
            return _NAMES.get(inner, "a block")
        inner = line.rpartition(" ")[2]
    return inner

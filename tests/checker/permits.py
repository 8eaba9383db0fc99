"""Which errors are allowed when: what the faults of a history excuse."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tests.checker.history import Fault, History, Op

LET_IN: Final = 60.0
"""Seconds until a replica is let in again that falls time and again: 24 good looks, and a trial."""

# Faults in which a replica answers as ever, and is only late.
_LATE = frozenset({"pause replay", "cut streaming", "slow network"})


class Permits:
    """When the primary, and when replicas were not as they should be."""

    def __init__(self, history: History) -> None:
        self._bound = float(history.facts["bound"])
        self._primary = [each for each in history.faults if each.role == "primary"]
        self._replica = [each for each in history.faults if each.role == "replica"]

    def primary_was_hit(self, since: float, until: float) -> bool:
        """Return whether the primary was away in some part of a time, or was only just back."""
        return any(self._overlaps(each, since, until) for each in self._primary)

    def any_replica_was_hit(self, since: float, until: float) -> bool:
        """Return the same for any of the replicas."""
        return any(self._overlaps(each, since, until) for each in self._replica)

    def replica_was_hit(self, node: str, since: float, until: float) -> bool:
        """Return whether a server that is read was evicted, perhaps, in some part of a time."""
        return any(
            each.node == node and each.name not in _LATE and self._overlaps(each, since, until)
            for each in (*self._replica, *self._primary)
        )

    def _overlaps(self, fault: Fault, since: float, until: float) -> bool:
        return fault.began <= until and since <= fault.ended + self._bound


def forbidden_errors(history: History) -> Iterator[tuple[Op, str]]:
    """Yield operations that failed and should not have, with why not."""
    permits = Permits(history)
    for op in history.ops:
        if op.outcome == "ok":
            continue
        if not permits.primary_was_hit(op.invoked, op.ended):
            yield op, "it failed, and nothing was wrong with the primary"
        elif not _may_need_primary(op, permits):
            yield op, "a read failed that needed no primary, and all replicas were well"


def _may_need_primary(op: Op, permits: Permits) -> bool:
    # Who has something to see may find that no replica has it.
    if op.writes or op.brought or op.session or op.kind == "job":
        return True
    since = op.invoked - LET_IN if "all_down" in op.route else op.invoked
    return permits.any_replica_was_hit(since, op.ended)

"""What may be lost by definition: what a primary had alone when another took its place."""

from __future__ import annotations

from tests.checker.history import History, Op, Promotion

# Seconds before the cut within which a write of unknown place may not have been sent on.
_ON_ITS_WAY = 5.0


class Losses:
    """Which writes a promotion may have lost."""

    def __init__(self, history: History) -> None:
        self._lossy = [each for each in history.promotions if each.lossy]
        # A counter may come to the same number twice: before a loss, and after it.
        self._writers: dict[tuple[str, int], list[Op]] = {}
        for op in history.ops:
            for write in op.writes:
                if write.element:
                    self._writers.setdefault((write.target, write.element), []).append(op)

    def may_lack(self, target: str, element: int, at: float) -> bool:
        """Return whether a server may lack something, at a time, for it may be lost."""
        ops = self._writers.get((target, element))
        if ops is None:
            # Of a write that nobody knows the end of.
            return any(each.began <= at for each in self._lossy)
        return any(self.is_gone(op, at) for op in ops)

    def is_gone(self, op: Op, at: float) -> bool:
        """Return whether what an operation wrote may be lost at a time."""
        return any(each.began <= at and _lost_by(op, each) for each in self._lossy)

    def may_be_lost(self, op: Op) -> bool:
        """Return whether what an operation wrote may not be there in the end."""
        return any(_lost_by(op, each) for each in self._lossy)


def _lost_by(op: Op, promotion: Promotion) -> bool:
    if op.invoked >= promotion.ended:
        return False
    if isinstance(op.told, list):
        timeline, position = op.told
        return timeline == promotion.timeline and position > promotion.switch
    if op.outcome == "ok" and op.told is None:
        return False  # all replicas had it
    return op.ended > promotion.began - _ON_ITS_WAY

"""What may be lost by definition: what a primary had alone when another took its place."""

from __future__ import annotations

from tests.checker.history import History, Op, Promotion

# Seconds before the cut within which a write of unknown place may not have been sent on.
_ON_ITS_WAY = 5.0


class Losses:
    """Which writes a promotion may have lost."""

    def __init__(self, history: History) -> None:
        self._lossy = [each for each in history.promotions if each.lossy]
        self._writer: dict[tuple[str, int], Op] = {}
        for op in history.ops:
            for write in op.writes:
                if write.element:
                    self._writer[write.target, write.element] = op

    def may_lack(self, target: str, element: int, at: float) -> bool:
        """Return whether a server may lack something, at a time, for it may be lost."""
        op = self._writer.get((target, element))
        if op is None:
            # Of a write that nobody knows the end of.
            return any(each.began <= at for each in self._lossy)
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

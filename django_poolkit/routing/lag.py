"""How far a replica is behind, and whether that is too far. Asks nobody: it is told.

PostgreSQL's own seconds grow while the primary has nothing to do, and a replica that is cut off
says that it has replayed all there is. So what counts is the primary's position, as it was at
this look and at those before: a replica that has not come to where the primary stood a minute ago
is a minute behind, and one that has is not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass
from time import monotonic
from typing import Final, Literal, NamedTuple

from django_poolkit.pools.postgres.fence import History
from django_poolkit.pools.postgres.standing import Standing
from django_poolkit.routing.breaker import Reason
from django_poolkit.routing.topology import Cluster

Refusal = Literal["refuses", "untold", "not_a_primary", "timeline", "system"]
"""Why what stands in a primary's place is not taken for one: it does not answer; it cannot tell how
far it has come; it is a replica; another server of the cluster has been promoted after it; it
belongs to another cluster of servers than the replicas do."""

REPLACED: Final[frozenset[Refusal]] = frozenset({"timeline", "system"})
"""With these a server stands there that is not to be written, nor read."""


def is_lost(refusal: Refusal | None) -> bool:
    """Return whether a primary of which this is said cannot be written.

    One that answers, and cannot tell where it stands, may well be.
    """
    return refusal not in (None, "untold")


# Looks that are remembered: more than an hour of them.
_LOOKS: Final = 4096


@dataclass(frozen=True, slots=True)
class Lag:
    """How far a replica is behind."""

    seconds: float | None
    """None where nobody can tell."""
    size: int
    """Bytes of the primary's log."""


class Verdict(NamedTuple):
    """What a look at a replica comes to."""

    kind: Literal["well", "bad", "doubt", "unknown"]
    """A doubt may be over at the next look; what is unknown changes nothing."""
    reason: Reason | None = None


WELL: Final = Verdict("well")
UNKNOWN: Final = Verdict("unknown")


class Course:
    """What is known of a cluster's primary, and so of how far its replicas should be."""

    def __init__(self) -> None:
        self.refused: Refusal | None = None
        """Why the primary is not taken for one at present."""
        self.since = 0.0
        """Since when, on the monotonic clock."""
        self._doubtful = False
        self._newest: Standing | None = None
        self._highest = 0  # the timeline, of all servers of the cluster
        self._before: int | None = None  # the position at the look before the newest
        self._looks: deque[tuple[float, int]] = deque(maxlen=_LOOKS)

    @property
    def found(self) -> bool:
        """Whether the primary has said where it stands when it was asked last."""
        return self._newest is not None and self.refused is None

    @property
    def least(self) -> History | None:
        """The history that a primary has to be on, at the least; None while nothing is known."""
        newest = self._newest
        return None if newest is None else History(newest.system, self._highest)

    @property
    def doubtful(self) -> bool:
        """Whether the next look says whether the primary is lost."""
        return self._doubtful

    def lost(self, refusal: Refusal, since: float | None = None) -> None:
        """Enter that the primary did not say where it stands: now, or since a while."""
        self._refuse(refusal)
        self.since = min(self.since, self.since if since is None else since)

    def doubt(self) -> None:
        """Enter that the primary was silent, which may be over in a moment: twice it is lost."""
        if self._doubtful or self.refused is not None:
            self._refuse(self.refused or "refuses")
        self._doubtful = True

    def _refuse(self, refusal: Refusal | None) -> None:
        self._doubtful = False
        if refusal is not None and self.refused is None:
            self.since = monotonic()
        self.refused = refusal

    def of_primary(self, standing: Standing, others: Collection[Standing] = ()) -> None:
        """Enter where the primary stands, or what is in its place, and where its replicas do."""
        self._enter_primary(standing, others)
        for other in others:
            self.seen(other)
        if self.refused is None and standing.timeline < self._highest:
            self._refuse("timeline")  # as the first look of a process may find it

    def _enter_primary(self, standing: Standing, others: Collection[Standing]) -> None:
        self._refuse(self._refusal(standing, others))
        if self.refused is not None:
            return
        newest = self._newest
        if (
            newest is None
            or (newest.system, newest.timeline) != (standing.system, standing.timeline)
            or newest.position > standing.position
        ):
            self._looks.clear()
            self._highest = standing.timeline
        self._before = self._looks[-1][1] if self._looks else None
        self._looks.append((standing.observed, standing.position))
        self._newest = standing

    def _refusal(self, standing: Standing, others: Collection[Standing]) -> Refusal | None:
        newest = self._newest
        if newest is not None and newest.system != standing.system:
            # A cluster of servers that is new has replaced the old one as a whole.
            if any(other.in_recovery and other.system == newest.system for other in others):
                return "system"
            newest = None
        if standing.in_recovery:
            return "not_a_primary"
        if newest is not None and standing.timeline < self._highest:
            return "timeline"
        return None

    def seen(self, standing: Standing) -> None:
        """Enter on which timeline a server of the cluster is."""
        if self._newest is not None and standing.system == self._newest.system:
            self._highest = max(self._highest, standing.timeline)

    def lag(self, standing: Standing) -> Lag | None:
        """Return how far a replica is behind, None where that cannot be said at present."""
        newest = self._newest
        if (
            self.refused is not None
            or newest is None
            or (standing.system, standing.timeline) != (newest.system, newest.timeline)
        ):
            return None
        size = max(0, newest.position - standing.position)
        if not size or not standing.in_recovery:
            return Lag(0.0, 0)
        # Neither is ever too small. The server's knows nothing of a primary that writes nothing;
        # the other has only what was seen at the looks.
        reached = (at for at, position in reversed(self._looks) if position <= standing.position)
        seen = next(reached, None)
        known = [] if seen is None else [standing.observed - seen]
        if standing.age is not None:
            known.append(standing.age)
        return Lag(min(known, default=None), size)

    def verdict(self, standing: Standing, cluster: Cluster) -> Verdict:
        """Return whether a replica may be read by what is asked of it in its cluster."""
        newest = self._newest
        if newest is not None and standing.system != newest.system:
            return Verdict("bad", "system")
        if not standing.in_recovery:
            # On the primary's own timeline it is the primary, by another name.
            if newest is not None and standing.timeline == newest.timeline:
                return WELL
            if self._is_successor(standing) and cluster.old_primary == "refuse":
                return WELL
            return Verdict("bad", "not_a_replica")
        if newest is None or self.refused is not None:
            # What the primary has is not known: who was well stays so, and who was behind has
            # to come to where the primary was seen last.
            behind = newest is not None and standing.position < newest.position
            return UNKNOWN if behind else WELL
        if standing.timeline < newest.timeline:
            return Verdict("bad", "timeline")
        lag = self.lag(standing)
        return WELL if lag is None else self._judge(standing, lag, cluster)

    def _is_successor(self, standing: Standing) -> bool:
        """Return whether a server has been promoted in place of the primary that is lost.

        Nobody has newer rows, and it is read until the primary's alias leads there.
        """
        newest = self._newest
        latest = newest is not None and standing.timeline == self._highest
        return latest and is_lost(self.refused)

    def _judge(self, standing: Standing, lag: Lag, cluster: Cluster) -> Verdict:
        # What the primary has written since the look before may just be on its way.
        late = self._before is not None and standing.position < self._before
        if late and not standing.fed:
            return Verdict("bad", "cut")
        if cluster.max_lag_bytes is not None and lag.size > cluster.max_lag_bytes:
            return Verdict("bad", "lag")
        limit, seconds = cluster.max_lag, lag.seconds
        if late and limit is not None and seconds is not None and seconds > limit:
            return Verdict("bad", "lag")
        return WELL

"""What became of a server of a cluster, told: in the log, in the figures, as a signal."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final, Protocol

from django_poolkit import registry
from django_poolkit.pools.postgres import ConnectionPool
from django_poolkit.routing.breaker import Change
from django_poolkit.routing.figures import losses
from django_poolkit.routing.lag import Lag, Refusal, is_lost
from django_poolkit.routing.topology import Cluster

logger = logging.getLogger("django_poolkit.routing")

_LINES: Final = {
    "evicted": "pool=%s event=replica_evicted cluster=%s reason=%s%s",
    "trial": "pool=%s event=replica_on_trial cluster=%s reason=%s%s",
    "admitted": "pool=%s event=replica_admitted cluster=%s reason=%s%s",
}

# By itself, or by a right that is granted: a server that answers and cannot tell where it stands
# may well be written. The other reasons need somebody to look.
_MAY_PASS: Final[frozenset[Refusal]] = frozenset({"refuses", "untold"})


class News(Protocol):
    """Something that is to be told."""

    def tell(self) -> None:
        """Tell it. Called outside of every lock."""


@dataclass(frozen=True, slots=True)
class ReplicaNews:
    """A replica is read no more, or again."""

    cluster: Cluster
    pool: ConnectionPool
    change: Change
    lag: Lag | None

    def tell(self) -> None:
        """Log it; count and signal it where it is no step in between."""
        change, name = self.change, self.pool.name
        level = logging.WARNING if change.after == "evicted" else logging.INFO
        more = ""
        if self.lag is not None:
            seconds = "unknown" if self.lag.seconds is None else f"{self.lag.seconds:.3f}"
            more = f" seconds={seconds} bytes={self.lag.size}"
        logger.log(level, _LINES[change.after], name, self.cluster.name, change.reason, more)
        if change.after == "evicted":
            if change.before == "evicted":
                return  # for another reason by now
            self.pool.count_eviction(str(change.reason))
        if change.after != "trial":
            event = f"replica_{change.after}"
            self.pool.events.tell(event, pool=name, reason=change.reason)


@dataclass(frozen=True, slots=True)
class PrimaryNews:
    """What stands in a primary's place is not taken for one, or is again."""

    cluster: Cluster
    before: Refusal | None
    refusal: Refusal | None

    def tell(self) -> None:
        """Log, count and signal it."""
        name, refusal = self.cluster.name, self.refusal
        if refusal is None:
            logger.info("event=primary_found cluster=%s", name)
        else:
            level = logging.WARNING if refusal in _MAY_PASS else logging.ERROR
            logger.log(level, "event=primary_lost cluster=%s reason=%s", name, refusal)
        facts = {"pool": self.cluster.primary, "cluster": name}
        if is_lost(refusal):
            losses.count(name, str(refusal))
            registry.pools.events.tell("primary_lost", **facts, reason=refusal)
        elif is_lost(self.before):
            registry.pools.events.tell("primary_found", **facts, reason=self.before)

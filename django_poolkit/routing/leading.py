"""What the pools of a primary are told of the server that they lead to.

Once it is known to be lost, who needs it is told so at once. And a server that has been replaced
is not led to any more, though it is where the settings say.
"""

from __future__ import annotations

import logging
from typing import Final, NamedTuple

from django_poolkit import registry
from django_poolkit.pools.postgres import ConnectionPool
from django_poolkit.pools.postgres.fence import History
from django_poolkit.routing import topology
from django_poolkit.routing.lag import REPLACED, Course, Refusal
from django_poolkit.routing.topology import Cluster

logger = logging.getLogger("django_poolkit.routing")


class _Led(NamedTuple):
    """What is known of a cluster's primary."""

    refused: Refusal | None
    since: float
    """Since when it is, on the monotonic clock."""
    least: History | None


_NOTHING: Final = _Led(None, 0.0, None)
# By the name of the cluster: for pools that are made later. Each is replaced as a whole, by who
# has looked or met something last.
_known: dict[str, _Led] = {}


def lead(cluster: Cluster, course: Course) -> None:
    """Tell the pools of a primary what the last look has found. Never waits for a server."""
    name = cluster.name
    before = _known.get(name, _NOTHING)
    now = _known[name] = _Led(course.refused, course.since, course.least)
    newly = now.refused in REPLACED and before.refused not in REPLACED
    for pool in _pools_of(cluster.primary):
        if _tell(cluster, pool, now, newly):
            logger.warning("pool=%s event=recycled cluster=%s reason=replaced", pool.name, name)


def note_pool(alias: str, pool: ConnectionPool) -> None:
    """Tell a pool that is being made what those of its alias have been told."""
    cluster = topology.cluster_of(alias)
    if cluster is not None and alias == cluster.primary and cluster.name in _known:
        _tell(cluster, pool, _known[cluster.name])


def forget() -> None:
    """Take back everything that was told."""
    for name in list(_known):
        del _known[name]
    for pool in registry.pools:
        pool.fence.least = None
        pool.note_found()


def _tell(cluster: Cluster, pool: ConnectionPool, now: _Led, newly: bool = False) -> bool:
    """Tell one pool; return whether its connections are replaced. `newly`: it has to be."""
    refuses = cluster.old_primary == "refuse"
    replaced = refuses and now.least is not None and pool.demand(now.least, renew=newly)
    if now.refused == "refuses" or (now.refused in REPLACED and refuses):
        pool.note_lost(now.since)
    else:
        pool.note_found()
    return replaced


def _pools_of(alias: str) -> list[ConnectionPool]:
    return [pool for pool in registry.pools if alias in pool.aliases and not pool.ended]

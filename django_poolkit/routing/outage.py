"""A primary that is not there: what needs it is told so, and views can know it before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from django_poolkit.pools.errors import PoolError, PoolTimeout
from django_poolkit.pools.postgres import ConnectionPool
from django_poolkit.routing import scopes, topology, watching
from django_poolkit.routing.errors import PrimaryUnavailable
from django_poolkit.routing.lag import Refusal
from django_poolkit.routing.monitor import monitor
from django_poolkit.routing.topology import Cluster

_WHY: Final = {
    "refuses": "its primary gives no connection",
    "timeline": "the server in its primary's place has been replaced by another one, and is not "
    "written to any more",
    "system": "the server in its primary's place belongs to another cluster of servers",
}


def is_read_only(cluster: str = "default") -> bool:
    """Return whether nothing can be written to a cluster, as far as its primary was looked at.

    That is where it does not answer, or another server has taken its place. False where nobody
    looks. Asks no server, and begins to look if nobody has. Raises KeyError for an unknown name.
    """
    found = topology.clusters()[cluster]
    if not _is_watched(found) or watching.on_one_database():
        return False
    monitor.start()
    return monitor.is_lost(found)


def read_only() -> Mapping[tuple[str, str], int]:
    """Return the same for each cluster whose primary is looked at, as 0 or 1, for the metrics."""
    if not monitor.started:
        return {}
    watched = (each for each in topology.clusters().values() if _is_watched(each))
    return {(each.name, ""): int(monitor.is_lost(each)) for each in watched}


def refusal_of(alias: str) -> Refusal | None:
    """Return why an alias is not taken for the primary that it should be, None where it is, and
    where it should be none. Never blocks."""
    cluster = topology.cluster_of(alias)
    if cluster is None or alias != cluster.primary:
        return None
    return monitor.refusal(cluster)


def begin_to_look(cluster: Cluster) -> None:
    """Begin to look at the servers of a cluster that is written to, but not in a command."""
    here = scopes.current()
    if here is not None and here.command:
        return
    if cluster.watch and cluster.replicas and not watching.on_one_database():
        monitor.start()


def explain(alias: str, error: PoolError, pool: ConnectionPool) -> PrimaryUnavailable | None:
    """Return what to raise where no connection to a primary could be had, None for other reasons.

    Those who write then know it: it is looked at now.
    """
    cluster = topology.cluster_of(alias)
    if cluster is None or alias != cluster.primary or not isinstance(error, PoolTimeout):
        return None
    if isinstance(error, PrimaryUnavailable) or not pool.unreachable:
        return None
    if _is_watched(cluster) and not watching.on_one_database():
        monitor.start()
        monitor.lost(cluster, "refuses", error.waited)
    reason = monitor.refusal(cluster) or "refuses"
    text = f"cluster {cluster.name!r}: {_WHY.get(reason, _WHY['refuses'])}. {error}"
    found = PrimaryUnavailable(text, pool=error.pool, stats=error.stats)
    found.cluster, found.waited, found.reason = cluster.name, error.waited, reason
    return found


def note_standby(alias: str) -> None:
    """Take note that what a cluster is written by is a replica.

    Its pool connects anew on its own account.
    """
    cluster = topology.cluster_of(alias)
    if cluster is None or alias != cluster.primary:
        return
    if _is_watched(cluster) and not watching.on_one_database():
        monitor.start()
        monitor.lost(cluster, "not_a_primary")


def _is_watched(cluster: Cluster) -> bool:
    """Return whether somebody looks at the primary of a cluster."""
    return bool(cluster.watch and cluster.replicas and cluster.position == "lsn")

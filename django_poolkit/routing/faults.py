"""Where a read goes that has failed on a replica, and what becomes of that replica."""

from __future__ import annotations

from collections.abc import Collection

from django_poolkit.pools.postgres import ConnectionPool
from django_poolkit.routing import asked, choice, overrides, readable, scopes, topology, watching
from django_poolkit.routing.monitor import monitor


def reroutes(alias: str) -> bool:
    """Return whether what fails to be read on an alias may be read on another one."""
    return topology.role_of(alias) == "replica"


def another_alias(alias: str, been: Collection[str], asker: object) -> str | None:
    """Return where a read goes that has failed on all these aliases, the last of them `alias`.

    That is another replica that has what must be seen; else the primary, if it may be read in
    place of replicas. None where the alias was not the router's choice. The scope goes with it.
    """
    cluster = topology.cluster_of(alias)
    if cluster is None or alias not in cluster.replicas or not asked.is_routers_choice(asker):
        return None
    here = scopes.current()
    asked_for = overrides.role_of(cluster.name) == "replica"
    if others := readable.others(cluster, here, been, asked_for=asked_for):
        return choice.one_of(cluster, here, others)
    if cluster.all_down == "error" or cluster.primary in been:
        return None
    if here is not None:
        here.fallen.add(cluster.name)
        here.behind.add(cluster.name)
    return cluster.primary


def note_broken(alias: str, host: str | None, pool: ConnectionPool) -> None:
    """Leave a replica alone whose connection has broken under a statement, until it is found well.

    Where nobody looks at it, nothing is done.
    """
    cluster = topology.cluster_of(alias)
    if (
        cluster is None
        or alias not in cluster.replicas
        or not cluster.watch
        or watching.on_one_database()
    ):
        return
    monitor.start()
    monitor.evict(cluster, alias if host is None else f"{alias}/{host}", pool, "broken")

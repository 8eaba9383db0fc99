"""What was written, and where in the write-ahead log it ended: told by the backend, kept by scopes.

Where no position can be had, a *time pin* stands for it: for a while, the primary is read.
"""

from __future__ import annotations

import logging
import time
from typing import Final

from django_poolkit.conf.routing import routing_config
from django_poolkit.pools.forks import in_child
from django_poolkit.pools.postgres.commit import Asked, Commit
from django_poolkit.routing import figures, scopes, topology
from django_poolkit.routing.floors import Floor, Position
from django_poolkit.routing.positions import servers
from django_poolkit.routing.scopes import Scope
from django_poolkit.routing.topology import Cluster

logger = logging.getLogger("django_poolkit.routing")

# Clusters whose primary does not say where it is: no such function, no right to call it, or not
# here. It will not change its mind. Replaced as a whole.
_silent: frozenset[str] = frozenset()
_FOR_GOOD: Final = ("42", "0A", "55")  # classes of SQLSTATE


def ask_commit(alias: str) -> Asked:
    """Return what is to be known of a commit on an alias."""
    cluster = _written(alias)
    if cluster is None:
        return "nothing"
    if scopes.current() is None:
        # What has begun long ago can be seen only from here on.
        scopes.mark_written(cluster.name)
        return "nothing"
    return "position" if has_positions(cluster) else "writes"


def note_commit(alias: str, commit: Commit) -> None:
    """Enter where a commit has ended. Never raises."""
    cluster, here = _written(alias), scopes.current()
    if cluster is None or here is None:
        return
    if commit.refused is not None and commit.refused[:2] in _FOR_GOOD:
        _give_up(cluster, commit.refused)
    if commit.position is None:
        pin(here, cluster)
    else:
        place(here, cluster, commit.position)


def note_lone_write(alias: str) -> None:
    """Enter that what now begins on an alias, or has ended, is written without a commit that is
    told of.

    Also as it ends: it may have taken long, and others may have asked where it is meanwhile.
    """
    if (cluster := _written(alias)) is None:
        return
    if (here := scopes.current()) is None:
        scopes.mark_written(cluster.name)
    else:
        here.unplaced.add(cluster.name)


def has_positions(cluster: Cluster) -> bool:
    """Return whether the primary of a cluster can be asked for positions."""
    return cluster.position == "lsn" and cluster.name not in _silent


def place(here: Scope, cluster: Cluster, position: Position) -> None:
    """Enter where the primary of a cluster was after what a scope has written, or seen there."""
    servers.note(cluster.name, position)
    here.place(cluster.name, Floor(position, time.time() + routing_config().max_age))


def pin(here: Scope, cluster: Cluster) -> None:
    """Enter that what a scope has written can be told by the time alone."""
    figures.pinned(cluster.name)
    here.place(cluster.name, Floor(None, time.time() + routing_config().pin))


def _written(alias: str) -> Cluster | None:
    """Return the cluster whose primary an alias is, if there are replicas to be behind."""
    cluster = topology.cluster_of(alias)
    if cluster is None or alias != cluster.primary or not cluster.replicas:
        return None
    return cluster


def _give_up(cluster: Cluster, state: str) -> None:
    global _silent
    if cluster.name in _silent:
        return
    _silent |= {cluster.name}
    logger.warning(
        "cluster=%s event=no_positions sqlstate=%s: its primary does not say where it is, so after "
        "a write it is read for %g s. If that is how it is, set "
        "POOLKIT['CLUSTERS'][%r]['position'] to 'time'",
        cluster.name,
        state,
        routing_config().pin,
        cluster.name,
    )


def _after_fork() -> None:
    global _silent
    _silent = frozenset()


in_child(_after_fork)

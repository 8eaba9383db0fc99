"""Which alias is what: its cluster, its role, and whether it stands for one server or several.

Read from the settings. Nothing here opens a connection.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from django.db import connections

from django_poolkit.conf.clusters import Cluster, clusters_config
from django_poolkit.conf.hosts import hosts_of

__all__ = ["Cluster", "Role", "cluster_of", "clusters", "host_keys", "role_of"]

Role = Literal["primary", "replica"]

# What the settings say, and the same by alias. Replaced as a whole.
_known: tuple[Mapping[str, Cluster], Mapping[str, Cluster]] = (MappingProxyType({}),) * 2

clusters = clusters_config
"""Return the clusters by name. Raises ImproperlyConfigured for settings that are wrong."""


def cluster_of(alias: str) -> Cluster | None:
    """Return the cluster that an alias belongs to, None where it belongs to none.

    Cheap enough for every query. Raises ImproperlyConfigured as `clusters()`.
    """
    global _known
    now = clusters_config()
    seen, by_alias = _known
    if seen is not now:
        by_alias = {
            alias: cluster
            for cluster in now.values()
            for alias in (cluster.primary, *cluster.replicas)
        }
        _known = (now, by_alias)
    return by_alias.get(alias)


def role_of(alias: str) -> Role | None:
    """Return what an alias is in its cluster, None where it belongs to none."""
    cluster = cluster_of(alias)
    if cluster is None:
        return None
    return "primary" if alias == cluster.primary else "replica"


def host_keys(alias: str) -> tuple[str, ...] | None:
    """Return the keys of the hosts that a logical alias chooses from.

    None for a physical one, which leads to one server. Raises KeyError where `DATABASES` has no
    such alias.
    """
    hosts = hosts_of(alias, connections.settings[alias])
    return None if hosts is None else tuple(hosts)

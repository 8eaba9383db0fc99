"""Who belongs to a cluster: its servers, and which of its replicas a visitor reads of itself."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Any, NamedTuple

from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.utils.connection import ConnectionDoesNotExist

from django_poolkit.conf.hosts import hosts_of
from django_poolkit.pools.errors import PoolError
from django_poolkit.pools.postgres import ConnectionPool
from django_poolkit.routing.positions import Server, servers
from django_poolkit.routing.topology import Cluster

# No pool: the settings are wrong, or the process is about to end.
_POOLLESS = (PoolError, ImproperlyConfigured, ConnectionDoesNotExist)


class Member(NamedTuple):
    """A server that reads of a cluster may go to."""

    alias: str
    key: str | None
    """Of the host, where the alias leads to several."""
    server: Server

    @property
    def name(self) -> str:
        """Its full name, as that of its pool."""
        return self.alias if self.key is None else f"{self.alias}/{self.key}"


def replicas_of(cluster: Cluster) -> list[Member]:
    """Return the replicas of a cluster that this process can ask. Opens nothing."""
    return [member for alias in cluster.replicas for member in _members(alias)]


def primary_of(cluster: Cluster) -> Server | None:
    """Return the primary of a cluster, None where this process cannot ask it. Opens nothing."""
    members = _members(cluster.primary)
    return members[0].server if members else None


def count_of(cluster: Cluster) -> int:
    """Return how many replicas a cluster has."""
    return sum(len(weights_of(alias) or (alias,)) for alias in cluster.replicas)


def find(alias: str, key: str | None) -> Server | None:
    """Return the server behind an alias, or one host of it, None where it cannot be asked."""
    return next((member.server for member in _members(alias) if member.key == key), None)


def pools_of(alias: str) -> Mapping[str | None, ConnectionPool]:
    """Return the pools of an alias by the keys of its hosts, or by None where it has but one.

    Empty where this process has none. Opens nothing.
    """
    try:
        wrapper: Any = connections[alias]
        hosts: Mapping[str, ConnectionPool] | None = getattr(wrapper, "host_pools", None)
        if hosts is not None:
            return {name[len(alias) + 1 :]: pool for name, pool in hosts.items()}
        pool = getattr(wrapper, "pool", None)
    except _POOLLESS:
        return {}
    return {None: pool} if isinstance(pool, ConnectionPool) else {}


def _members(alias: str) -> list[Member]:
    return [Member(alias, key, servers.of(pool)) for key, pool in pools_of(alias).items()]


def weights_of(alias: str) -> Mapping[str, float] | None:
    """Return the weights of the hosts of an alias by key, None where it leads to one server."""
    hosts = hosts_of(alias, connections.settings[alias])
    return None if hosts is None else {key: host.weight for key, host in hosts.items()}


def shares_of(cluster: Cluster, aliases: Iterable[str]) -> Mapping[str, float]:
    """Return the weights of some of the replicas of a cluster, by alias."""
    return {alias: cluster.weights.get(alias, 1.0) for alias in aliases}


def own_of(visitor: bytes, cluster: Cluster) -> tuple[str, str | None]:
    """Return the alias, and its host if it has several, that a visitor reads where nothing else
    is said: the same each time and in each process."""
    alias = chosen_by(visitor, shares_of(cluster, cluster.replicas))
    weights = weights_of(alias)
    return alias, None if weights is None else chosen_by(visitor, weights)


def chosen_by(visitor: bytes, weights: Mapping[str, float]) -> str:
    """Return one of several names, each for its share of visitors.

    By rendezvous: where one is gone, only its own visitors go elsewhere.
    """
    return max(weights, key=lambda name: _score(visitor, name, weights[name]))


def _score(visitor: bytes, name: str, weight: float) -> float:
    digest = blake2b(visitor, digest_size=8, key=name.encode()[:64]).digest()
    drawn = ((int.from_bytes(digest) >> 12) + 0.5) / 2**52  # above 0, and below 1 as a float, too
    return -weight / math.log(drawn)

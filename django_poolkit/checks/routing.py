"""What is wrong with clusters and their router, beyond what a single value shows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from django.apps import AppConfig
from django.core import checks
from django.core.checks import CheckMessage, Error
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.db import router as routers

from django_poolkit.checks import carrying
from django_poolkit.conf.clusters import verify_clusters
from django_poolkit.conf.poolkit import is_readable
from django_poolkit.conf.routing import routing_config
from django_poolkit.routing import ReadWriteRouter
from django_poolkit.routing.topology import Cluster, clusters

_NAME = f"{ReadWriteRouter.__module__.rpartition('.')[0]}.{ReadWriteRouter.__name__}"


def check_routing(
    app_configs: Sequence[AppConfig] | None = None, **kwargs: Any
) -> Iterable[CheckMessage]:
    """Return what is wrong with the clusters. Opens no connection."""
    if not is_readable():
        return []  # poolkit.E008 says it, once for all sections
    unread: list[CheckMessage] = []
    try:
        known = clusters()
        verify_clusters()
    except ImproperlyConfigured as error:
        unread.append(Error(str(error), id="poolkit.E004"))
    try:
        config = routing_config()
    except ImproperlyConfigured as error:
        unread.append(Error(str(error), id="poolkit.E006"))
    if unread:
        return unread
    found = [message for cluster in known.values() for message in _transactions(cluster)]
    if any(cluster.replicas for cluster in known.values()):
        for look in (_no_router(), carrying.middleware(), carrying.cookie(config),
                     carrying.cache(config)):  # fmt: skip
            found += look
    return found


def _transactions(cluster: Cluster) -> Iterator[CheckMessage]:
    for alias in cluster.replicas:
        if _atomic_requests(alias):
            yield Error(
                f"DATABASES[{alias!r}]['ATOMIC_REQUESTS'] is on, and {alias!r} is a replica.",
                hint="Every view would open a transaction on the replica, whether it reads there "
                "or not, and fail while the replica is down. Remove it there.",
                id="poolkit.E005",
            )
    asked = cluster.atomic_requests == "primary"
    if asked and cluster.replicas and _atomic_requests(cluster.primary):
        yield checks.Warning(
            f"DATABASES[{cluster.primary!r}]['ATOMIC_REQUESTS'] is on, so the replicas of "
            f"POOLKIT['CLUSTERS'][{cluster.name!r}] serve no view.",
            hint="What is read in a transaction of the primary is read there. Set "
            f"POOLKIT['CLUSTERS'][{cluster.name!r}]['atomic_requests'] to 'replica' to have views "
            "read a replica in it until they write. Or turn it off, and decorate the views that "
            "need a transaction with transaction.atomic.",
            id="poolkit.W005",
        )


def _atomic_requests(alias: str) -> bool:
    return alias in connections.settings and bool(connections.settings[alias]["ATOMIC_REQUESTS"])


def _no_router() -> Iterator[CheckMessage]:
    if not any(isinstance(router, ReadWriteRouter) for router in routers.routers):
        yield checks.Warning(
            "POOLKIT['CLUSTERS'] has replicas, and no router sends anything there.",
            hint=f"Set DATABASE_ROUTERS = [{_NAME!r}].",
            id="poolkit.W006",
        )

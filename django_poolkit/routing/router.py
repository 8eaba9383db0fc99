"""`ReadWriteRouter`: `DATABASE_ROUTERS = ["django_poolkit.routing.ReadWriteRouter"]`."""

from __future__ import annotations

from typing import Any

from django.db import router
from django.db.models import Model

from django_poolkit.routing import choice, figures, rules, shown, topology, watching
from django_poolkit.routing.errors import NoReplica
from django_poolkit.routing.topology import Cluster
from django_poolkit.routing.watching import Decision


class ReadWriteRouter:
    """Sends writes to the primary of a cluster, and reads to a replica where that is right.

    Models of no cluster are left to the next router. It opens no connection and asks no server,
    and its answer is the same throughout a scope, however often Django asks.
    """

    def db_for_read(self, model: type[Model], **hints: Any) -> str | None:
        """Return the alias to read a model from, None for models of no cluster."""
        instance = hints.get("instance")
        cluster, _, on_primary = rules.verdict_on(model, instance)
        if cluster is None:
            return None
        try:
            alias, reason = choice.for_read(cluster, on_primary, instance)
        except NoReplica:
            _note(cluster, "error")
            raise
        _note(cluster, reason)
        if watching.watchers:
            role = topology.role_of(alias) or "primary"
            decision = Decision(model._meta.label, cluster.name, alias, role, reason)
            alias = _watched(cluster, decision)
        return alias

    def db_for_write(self, model: type[Model], **hints: Any) -> str | None:
        """Return the primary of a model's cluster, None for models of no cluster."""
        cluster = rules.verdict_on(model, hints.get("instance")).cluster
        return None if cluster is None else cluster.primary

    def allow_relation(self, obj1: Model, obj2: Model, **hints: Any) -> bool | None:
        """Return True for objects of one cluster, whoever gave them; else None."""
        one, other = obj1._state.db, obj2._state.db
        if one is None or other is None:
            return None
        cluster = topology.cluster_of(one)
        return True if cluster is not None and cluster is topology.cluster_of(other) else None

    def allow_migrate(
        self, db: str, app_label: str, model_name: str | None = None, **hints: Any
    ) -> bool | None:
        """Return False for a replica, which gets its tables from the primary; else None."""
        return False if topology.role_of(db) == "replica" else None


def is_replaceable(alias: str) -> bool:
    """Return whether the router reads something else while an alias is down."""
    cluster = topology.cluster_of(alias)
    return (
        cluster is not None
        and alias != cluster.primary
        and cluster.watch
        and cluster.all_down != "error"
        and any(isinstance(each, ReadWriteRouter) for each in router.routers)
    )


def _note(cluster: Cluster, reason: str) -> None:
    figures.decisions.count(cluster.name, reason)
    if shown.on:
        shown.note(cluster.name, reason)


def _watched(cluster: Cluster, decision: Decision) -> str:
    alias = decision.alias
    for watcher in watching.watchers:
        watcher.decided(decision)
        if watcher.one_database:
            alias = cluster.primary
    return alias

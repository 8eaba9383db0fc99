"""Which cluster a model belongs to, and whether it is read from the primary whatever happens."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from django.db import DEFAULT_DB_ALIAS
from django.db.models import Model

from django_poolkit.routing.topology import Cluster, cluster_of, clusters


class _Verdicts:
    """What was found out under one state of the settings."""

    __slots__ = ("clusters", "of", "on_primary")

    def __init__(self, known: Mapping[str, Cluster]) -> None:
        self.of = known
        self.clusters: dict[type[Model], tuple[Cluster | None, bool]] = {}
        self.on_primary: dict[tuple[str, type[Model]], bool] = {}


_verdicts = _Verdicts({})  # replaced as a whole


def cluster_for(model: type[Model], instance: Any = None) -> Cluster | None:
    """Return the cluster that a model's rows are in, None where no cluster has them.

    A cluster that lists the model, or its app, has it. Else it is the one that an instance came
    from; else the one that the alias `default` belongs to.
    """
    verdicts = _present()
    entry = verdicts.clusters.get(model)
    if entry is None:
        entry = verdicts.clusters[model] = _found(verdicts.of, model)
    cluster, listed = entry
    if instance is not None and not listed:
        state = getattr(instance, "_state", None)
        if state is not None and state.db is not None:
            return cluster_of(state.db) or cluster
    return cluster


def read_from_primary(cluster: Cluster, model: type[Model]) -> bool:
    """Return whether the rules of a cluster have a model read from the primary."""
    verdicts = _present()
    key = (cluster.name, model)
    verdict = verdicts.on_primary.get(key)
    if verdict is None:
        labels = {*_labels(model), *(kind for kind, base in _kinds() if issubclass(model, base))}
        verdict = verdicts.on_primary[key] = not labels.isdisjoint(cluster.on_primary)
    return verdict


def _present() -> _Verdicts:
    global _verdicts
    now = clusters()
    if _verdicts.of is not now:
        _verdicts = _Verdicts(now)
    return _verdicts


def _found(known: Mapping[str, Cluster], model: type[Model]) -> tuple[Cluster | None, bool]:
    for label in _labels(model):
        for cluster in known.values():
            if label in cluster.models:
                return cluster, True
    return cluster_of(DEFAULT_DB_ALIAS), False


def _labels(model: type[Model]) -> tuple[str, str]:
    """Return the labels that mean a model, the more exact one first."""
    meta = model._meta
    return f"{meta.app_label}.{meta.model_name}", meta.app_label


@cache
def _kinds() -> tuple[tuple[str, type[Model]], ...]:
    """Return the labels of Django's that stand for a project's own models of that kind, too."""
    # Models cannot be imported before the apps are ready, and the router may be.
    from django.contrib.auth.base_user import AbstractBaseUser
    from django.contrib.sessions.base_session import AbstractBaseSession

    return ("auth", AbstractBaseUser), ("sessions", AbstractBaseSession)

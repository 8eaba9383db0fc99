"""Which cluster a model belongs to, and whether it is read from the primary whatever happens."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

from django.apps import apps
from django.db import DEFAULT_DB_ALIAS
from django.db.models import Model

from django_poolkit.routing.topology import Cluster, cluster_of, clusters


class Verdict(NamedTuple):
    """What the settings say of a model."""

    cluster: Cluster | None
    listed: bool
    """Whether the cluster lists it, or its app: then it is not where an instance is."""
    on_primary: bool
    """Whether it is read from the cluster's primary."""


class _Verdicts:
    """What was found out under one state of the settings."""

    __slots__ = ("by_cluster", "by_model", "of")

    def __init__(self, known: Mapping[str, Cluster]) -> None:
        self.of = known
        self.by_model: dict[type[Model], Verdict] = {}
        self.by_cluster: dict[tuple[str, type[Model]], Verdict] = {}


_verdicts = _Verdicts({})  # replaced as a whole


def verdict_on(model: type[Model], instance: Any = None) -> Verdict:
    """Return the cluster that a model's rows are in, if any, and whether it is read there.

    A cluster that lists the model, or its app, has it. Else it is the one that an instance came
    from; else the one that the alias `default` belongs to.
    """
    global _verdicts
    now = clusters()
    if _verdicts.of is not now:
        _verdicts = _Verdicts(now)
    verdict = _verdicts.by_model.get(model)
    if verdict is None:
        verdict = _found(now, model)
        if _lasts(model):
            _verdicts.by_model[model] = verdict
    if instance is not None and not verdict.listed:
        alias = alias_of(instance)
        cluster = None if alias is None else cluster_of(alias)
        if cluster is not None and cluster is not verdict.cluster:
            return _within(cluster, model)
    return verdict


def read_from_primary(cluster: Cluster, model: type[Model]) -> bool:
    """Return whether the rules of a cluster have a model read from its primary."""
    labels = {*_labels(model), *(kind for kind, base in _kinds() if issubclass(model, base))}
    return not labels.isdisjoint(cluster.on_primary)


def alias_of(instance: Any) -> str | None:
    """Return where an object was read or written, None for one that was not."""
    state = getattr(instance, "_state", None)  # hints may be anything
    alias: str | None = getattr(state, "db", None)
    return alias


def _within(cluster: Cluster, model: type[Model]) -> Verdict:
    known = _verdicts.by_cluster
    verdict = known.get((cluster.name, model))
    if verdict is None:
        verdict = Verdict(cluster, False, read_from_primary(cluster, model))
        if _lasts(model):
            known[cluster.name, model] = verdict
    return verdict


def _lasts(model: type[Model]) -> bool:
    """Return whether a model is one of the project's.

    A migration makes models of its own, which keep all others of that state alive.
    """
    return model._meta.apps is apps


def _found(known: Mapping[str, Cluster], model: type[Model]) -> Verdict:
    for label in _labels(model):
        for cluster in known.values():
            if label in cluster.models:
                return Verdict(cluster, True, read_from_primary(cluster, model))
    default = cluster_of(DEFAULT_DB_ALIAS)
    if default is None:
        return Verdict(None, False, False)
    return Verdict(default, False, read_from_primary(default, model))


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

"""Where a read goes: the first rule that has something to say. Opens nothing, asks nobody."""

from __future__ import annotations

import random
from collections.abc import Mapping
from itertools import count
from typing import Any

from django.db import connections

from django_poolkit.backends.rota import rota
from django_poolkit.routing import overrides, rules, scopes, views
from django_poolkit.routing.scopes import Scope
from django_poolkit.routing.topology import Cluster
from django_poolkit.routing.watching import Reason

# Every process begins at another replica.
_turns = count(random.randrange(2**32))


def for_read(cluster: Cluster, on_primary: bool, instance: Any = None) -> tuple[str, Reason]:
    """Return the alias to read from, and why.

    `on_primary` is what the rules of the cluster say of the model. `instance` is the object for
    which rows are read: itself, or those that it is related to.
    """
    primary = cluster.primary
    if not cluster.replicas:
        return primary, "no_replica"
    role = overrides.role_of(cluster.name)
    if role == "primary":
        return primary, "use_primary"
    here = scopes.current()
    if role == "replica":
        return _replica(cluster, here), "use_replica"
    if in_transaction(primary) and not views.is_only_one(cluster):
        return primary, "transaction"
    if on_primary:
        return primary, "rule"
    if here is not None:
        if here.command:
            return primary, "command"
        if here.unsafe:
            return primary, "unsafe_request"
    if scopes.has_written(here, cluster.name):
        return primary, "wrote"
    if instance is not None and _is_from_primary(cluster, instance):
        return primary, "instance"
    return _replica(cluster, here), "read"


def in_transaction(alias: str) -> bool:
    """Return whether the caller's thread has a transaction open on an alias.

    The one that a test case wraps around itself does not count.
    """
    # Not `connections[alias]`: it would make a wrapper where there is none.
    wrapper: Any = getattr(connections._connections, alias, None)  # type: ignore[attr-defined]
    if wrapper is None:
        return False
    if wrapper.in_atomic_block:
        return not all(block._from_testcase for block in wrapper.atomic_blocks)
    # Autocommit is off, too, where nothing has been opened yet. In transaction mode a wrapper is
    # open without a connection.
    if wrapper.autocommit:
        return False
    return getattr(wrapper, "_opened", False) or wrapper.connection is not None


def host_for(alias: str, weights: Mapping[str, float]) -> str | None:
    """Return the host of a logical alias that the present scope reads, None outside of one.

    One that is not among `weights` has just refused a connection: another takes its place.
    """
    here = scopes.current()
    return None if here is None else rota.pick_once(here, alias, weights)


def _replica(cluster: Cluster, here: Scope | None) -> str:
    replicas = cluster.replicas
    if len(replicas) == 1:
        return replicas[0]
    if here is None:
        # Django may ask two times for one query, and uses the second answer: taking turns
        # would give one replica all of them.
        return random.choice(replicas)
    chosen = here.replicas.get(cluster.name)
    if chosen is None or chosen not in replicas:
        chosen = replicas[next(_turns) % len(replicas)]
        chosen = here.replicas.setdefault(cluster.name, chosen)
    return chosen


def _is_from_primary(cluster: Cluster, instance: Any) -> bool:
    # What was read there on purpose, or written, may not have reached a replica; neither may what
    # it refers to. What a rule has read there says nothing about the rest.
    if rules.alias_of(instance) != cluster.primary:
        return False
    return not rules.verdict_on(type(instance), instance).on_primary

"""Where a read goes: the first rule that has something to say. Opens nothing, asks nobody."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from django.db import connections

from django_poolkit.backends.rota import rota
from django_poolkit.pools.chance import chance
from django_poolkit.routing import (
    admission,
    loads,
    members,
    overrides,
    readable,
    rules,
    scopes,
    strategies,
    views,
    watching,
)
from django_poolkit.routing.errors import ReplicasBehind
from django_poolkit.routing.monitor import monitor
from django_poolkit.routing.scopes import Scope, Settled
from django_poolkit.routing.strategies import Strategy
from django_poolkit.routing.topology import Cluster, cluster_of
from django_poolkit.routing.watching import Reason


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
        return _replica(cluster, here, "use_replica")
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
    if here is not None and here.settled and _is_ahead(cluster, here):
        return primary, "token"
    return _replica(cluster, here, "read")


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

    One that is not among `weights` has just refused a connection: another takes its place, if it
    has what is to be seen. Raises ReplicasBehind where none has, and NoReplica where all are left
    out that have the rows of the cluster.
    """
    here = scopes.current()
    if here is None:
        if not admission.troubled:
            return None
        return rota.pick(alias, readable.hosts_for(alias, weights, chance.random()))
    cluster = cluster_of(alias)
    if cluster is not None and (settled := scopes.reached(here, cluster.name)) is not None:
        weights = _sufficient(cluster, here, settled, alias, weights)
    if admission.troubled:
        weights = readable.hosts_for(alias, weights, here.draw)
    if cluster is not None and cluster.choice != "visitor":
        return _host_by(cluster.choice, cluster, here, alias, weights)
    if here.visitor is None:
        return rota.pick_once(here, alias, weights)
    if (key := here.hosts.get(alias)) is None or key not in weights:
        key = here.hosts[alias] = members.chosen_by(here.visitor, weights)
        # Where it is not the one of all requests of this visitor, what it has read goes with it:
        # also where that is on trial, which its next request may take no part in.
        everyone = members.weights_of(alias)
        on_trial = f"{alias}/{key}" in admission.troubled
        if everyone and (on_trial or key != members.chosen_by(here.visitor, everyone)):
            here.strays.add((alias, key))
    return key


def _host_by(
    strategy: Strategy, cluster: Cluster, here: Scope, alias: str, weights: Mapping[str, float]
) -> str:
    """Return the host of an alias that a scope reads: one for all of it, as long as it is there."""
    key = here.hosts.get(alias)
    if key is not None and key in weights:
        return key
    picked = strategies.pick(strategy, alias, weights, lambda key: loads.of_host(alias, key))
    key = here.hosts.setdefault(alias, picked)  # another thread may have been quicker
    if key not in weights:
        key = here.hosts[alias] = picked
    # The next request of a visitor may read another one, which must not have less.
    if here.visitor is not None and members.count_of(cluster) > 1:
        here.strays.add((alias, key))
    return key


def keeps_host(alias: str, host: str) -> bool:
    """Return whether a host that is in use already may be read by the present scope.

    That is where it has what the scope must see, and is not evicted while another one is well.
    """
    if admission.troubled and not readable.keeps(alias, host):
        return False
    here = scopes.current()
    if here is None or not here.settled or (cluster := cluster_of(alias)) is None:
        return True
    settled = scopes.reached(here, cluster.name)
    allowed = None if settled is None else settled.hosts.get(alias)
    return allowed is None or host in allowed or overrides.role_of(cluster.name) == "replica"


def note_refusal(alias: str, host: str | None) -> None:
    """Have a server looked at now that has refused a connection, if nobody has noticed yet."""
    cluster = cluster_of(alias)
    name = alias if host is None else f"{alias}/{host}"
    if cluster is not None and cluster.watch and name not in admission.troubled:
        monitor.nudge()


def _sufficient(
    cluster: Cluster, here: Scope, settled: Settled, alias: str, weights: Mapping[str, float]
) -> Mapping[str, float]:
    """Return those of the hosts that have what is to be seen."""
    allowed = settled.hosts.get(alias)
    if allowed is None:
        return weights  # not our choice: it was named by using(), or by use_replica()
    found = {key: weight for key, weight in weights.items() if key in allowed}
    if found or overrides.role_of(cluster.name) == "replica":
        return found or weights
    scopes.unsettle(here, cluster.name, alias)
    had = ", ".join(map(repr, sorted(allowed)))
    raise ReplicasBehind(
        f"alias {alias!r}: no host is left that has what this visitor has to see"
        f"{f': {had} had, and cannot be reached' if had else ''}. What reads after this in the "
        "same scope reads the primary"
    )


def _is_ahead(cluster: Cluster, here: Scope) -> bool:
    """Return whether no replica has come as far as a scope must see."""
    settled = scopes.reached(here, cluster.name)
    if settled is None or settled.replicas:
        return False
    here.behind.add(cluster.name)
    return True


def _replica(cluster: Cluster, here: Scope | None, reason: Reason) -> tuple[str, Reason]:
    asked_for = reason == "use_replica"
    # Once on the primary, always: it must not go back in time.
    if here is not None and cluster.name in here.fallen and not asked_for:
        return cluster.primary, "all_down"
    if cluster.watch and not monitor.started and not watching.on_one_database():
        monitor.start()
    replicas = cluster.replicas
    if admission.troubled and not watching.on_one_database():
        replicas = readable.replicas_for(cluster, here, asked_for=asked_for)
        if not replicas:
            if here is not None:
                here.fallen.add(cluster.name)
                here.behind.add(cluster.name)
            return cluster.primary, "all_down"
    return one_of(cluster, here, replicas), reason


def one_of(cluster: Cluster, here: Scope | None, replicas: Sequence[str]) -> str:
    """Return the one of some replicas that a scope reads, and goes on to read."""
    if len(cluster.replicas) == 1:
        return replicas[0]
    if here is None:
        # Django may ask two times for one query, and uses the second answer: taking turns
        # would give one replica all of them.
        return strategies.drawn(members.shares_of(cluster, replicas))
    settled = scopes.reached(here, cluster.name)
    if settled is not None and (found := settled.replicas):
        replicas = tuple(alias for alias in replicas if alias in found)
    chosen = here.replicas.get(cluster.name)
    if chosen is None:
        chosen = here.replicas.setdefault(cluster.name, _chosen(cluster, here, replicas))
    if chosen not in replicas:
        chosen = here.replicas[cluster.name] = _chosen(cluster, here, replicas)
    return chosen


def _chosen(cluster: Cluster, here: Scope, replicas: Sequence[str]) -> str:
    weights = members.shares_of(cluster, replicas)
    place = f"cluster {cluster.name}"  # as an alias may be called like one
    if cluster.choice != "visitor":
        chosen = strategies.pick(cluster.choice, place, weights, loads.of_alias)
        # Of several hosts each is one by itself.
        if here.visitor is not None and members.weights_of(chosen) is None:
            here.strays.add((chosen, None))
        return chosen
    if here.visitor is None:
        return rota.pick(place, weights)
    chosen = members.chosen_by(here.visitor, weights)
    own = members.chosen_by(here.visitor, members.shares_of(cluster, cluster.replicas))
    if members.weights_of(chosen) is None:
        if chosen != own or chosen in admission.troubled:
            here.strays.add((chosen, None))
    elif chosen != own:
        # Which host of it, is not known yet.
        here.strays.update((chosen, key) for key in members.weights_of(chosen) or ())
    return chosen


def _is_from_primary(cluster: Cluster, instance: Any) -> bool:
    # What was read there on purpose, or written, may not have reached a replica; neither may what
    # it refers to. What a rule has read there says nothing about the rest.
    if rules.alias_of(instance) != cluster.primary:
        return False
    return not rules.verdict_on(type(instance), instance).on_primary

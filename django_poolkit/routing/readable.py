"""Which replicas of a cluster a scope may read, where not all of them are well."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from django_poolkit.pools.chance import chance
from django_poolkit.routing import admission, members, scopes, topology
from django_poolkit.routing.errors import NoReplica
from django_poolkit.routing.monitor import monitor
from django_poolkit.routing.scopes import Scope
from django_poolkit.routing.topology import Cluster


def replicas_for(cluster: Cluster, here: Scope | None, *, asked_for: bool) -> tuple[str, ...]:
    """Return the aliases of replicas that a scope may read; none: it reads the primary.

    `asked_for` says that the caller wants a replica, old as it may be. Raises NoReplica where the
    cluster's settings want that.
    """
    places = _places(cluster, here)
    draw = chance.random() if here is None else here.draw
    if found := _with(places, draw):
        return found
    if (asked_for or cluster.all_down == "stale") and (found := _stale(places)):
        return found
    if cluster.all_down != "error" and not monitor.is_lost(cluster):
        return ()
    # Where the primary is not to be read, or cannot be, nobody is kept out of a trial, and who is
    # well does not have to be so for longer.
    if (found := _recovering(places)) or cluster.all_down != "error":
        return found
    if _recovering(_places(cluster, None)):
        return ()  # there are some, and they have not come as far as this scope must see
    raise NoReplica(f"cluster {cluster.name!r}: no replica may be read at present")


def others(
    cluster: Cluster, here: Scope | None, been: Collection[str], *, asked_for: bool
) -> tuple[str, ...]:
    """Return the aliases of replicas that a scope may read in place of those where it has been."""
    settled = None if here is None else scopes.reached(here, cluster.name)
    if settled is None or asked_for:
        places = {alias: _names(alias, topology.host_keys(alias)) for alias in cluster.replicas}
    else:
        places = {alias: _names(alias, keys) for alias, keys in settled.hosts.items()}
    places = {alias: names for alias, names in places.items() if names and alias not in been}
    draw = chance.random() if here is None else here.draw
    if left := _with(places, draw):
        return left
    if monitor.is_lost(cluster) and (left := _recovering(places)):
        return left
    return _stale(places) if asked_for or cluster.all_down == "stale" else ()


def hosts_for(alias: str, weights: Mapping[str, float], draw: float) -> Mapping[str, float]:
    """Return those of some hosts of an alias that are to be tried before the others.

    Raises NoReplica where all that have the rows of the cluster have just refused.
    """
    keys = {f"{alias}/{key}": key for key in weights}
    if found := admission.best(keys, draw):
        return {keys[name]: weights[keys[name]] for name in found}
    if len(weights) == len(members.weights_of(alias) or weights):
        return weights  # it was named by using()
    raise NoReplica(f"alias {alias!r}: no host is left that has the rows of its cluster")


def keeps(alias: str, key: str) -> bool:
    """Return whether to stay with a host of an alias that is held already."""
    known = admission.troubled
    held = known.get(f"{alias}/{key}")
    if held is None or held.state != "evicted":
        return True
    return all(name in known for name in _names(alias, topology.host_keys(alias)))


def _places(cluster: Cluster, here: Scope | None) -> dict[str, list[str]]:
    """Return the full names of hosts by alias: of those that have what is to be seen."""
    settled = None if here is None else scopes.reached(here, cluster.name)
    found = {} if settled is None else settled.hosts
    places = {alias: _names(alias, keys) for alias, keys in found.items() if keys is None or keys}
    return places or {alias: _names(alias, topology.host_keys(alias)) for alias in cluster.replicas}


def _names(alias: str, keys: tuple[str, ...] | frozenset[str] | None) -> list[str]:
    return [alias] if keys is None else [f"{alias}/{key}" for key in keys]


def _with(places: Mapping[str, list[str]], draw: float) -> tuple[str, ...]:
    return tuple(alias for alias, names in places.items() if admission.admitted(names, draw))


def _stale(places: Mapping[str, list[str]]) -> tuple[str, ...]:
    return tuple(alias for alias, names in places.items() if admission.stale(names))


def _recovering(places: Mapping[str, list[str]]) -> tuple[str, ...]:
    return tuple(alias for alias, names in places.items() if admission.recovering(names))

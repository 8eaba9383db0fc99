"""What a process knows of the servers of its clusters, for those who look from outside."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from django.db import connections

from django_poolkit.routing.breaker import Circuit, Reason, State
from django_poolkit.routing.lag import Course, Lag, Refusal
from django_poolkit.routing.topology import Cluster, Role, host_keys


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One server of a cluster, as it was at the last look."""

    cluster: str
    alias: str
    name: str
    """Its full name, as that of its pool: `alias`, or `alias/key` for one of several hosts."""
    role: Role
    state: State | Literal["found", "lost"]
    """Of a replica, whether it is read; of a primary, whether it is taken for one."""
    reason: Reason | Refusal | None = None
    """Why it is not, or has not been."""
    age: float | None = None
    """Seconds for which a replica has been in this state."""
    share: float = 1.0
    """The part of the scopes that may read a replica."""
    lag: float | None = None
    """Seconds by which it is behind, None where nobody can tell."""
    lag_bytes: int | None = None
    """The same in bytes of the primary's log."""


def primary(cluster: Cluster, course: Course) -> Iterator[Seen]:
    """Yield what is known of a primary, if anything."""
    if course.found or course.refused is not None:
        yield Seen(
            cluster=cluster.name,
            alias=cluster.primary,
            name=cluster.primary,
            role="primary",
            state="found" if course.found else "lost",
            reason=course.refused,
        )


def replicas(
    cluster: Cluster, circuits: Mapping[str, Circuit], lags: Mapping[str, Lag | None]
) -> Iterator[Seen]:
    """Yield what is known of the replicas of a cluster."""
    for alias in cluster.replicas:
        if alias not in connections.settings:
            continue
        keys = host_keys(alias)
        for name in [alias] if keys is None else [f"{alias}/{key}" for key in keys]:
            if (circuit := circuits.get(name)) is not None:
                yield _replica(cluster, alias, name, circuit, lags.get(name))


def _replica(cluster: Cluster, alias: str, name: str, circuit: Circuit, lag: Lag | None) -> Seen:
    state, reason, age, share = circuit.now()
    return Seen(
        cluster=cluster.name,
        alias=alias,
        name=name,
        role="replica",
        state=state,
        reason=reason,
        age=age,
        share=share,
        lag=None if lag is None else lag.seconds,
        lag_bytes=None if lag is None else lag.size,
    )

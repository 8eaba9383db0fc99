"""How much the replicas of this process have to do, and how quick they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

from django_poolkit.routing import members
from django_poolkit.routing.strategies import Load

NEWEST: Final = 0.3
"""How much the newest look counts for, beside all those before it."""

_NONE: Final[Mapping[str, float]] = MappingProxyType({})

latencies: Mapping[str, float] = _NONE
"""Seconds that servers take to say where they stand, by full name. Replaced as a whole."""


def note(took: Mapping[str, float]) -> None:
    """Enter how long servers took to answer at a look. Who did not, is forgotten."""
    global latencies
    before = latencies
    latencies = MappingProxyType(
        {name: now + (1 - NEWEST) * (before.get(name, now) - now) for name, now in took.items()}
    )


def forget() -> None:
    """Know nothing."""
    global latencies
    latencies = _NONE


def of_host(alias: str, key: str) -> Load:
    """Return the load of one host of an alias. Opens nothing."""
    pool = members.pools_of(alias).get(key)
    return Load(0 if pool is None else pool.load, latencies.get(f"{alias}/{key}"))


def of_alias(alias: str) -> Load:
    """Return the load of an alias: of its hosts together, as if they were one. Opens nothing."""
    pools = members.pools_of(alias)
    used = sum(pool.load for pool in pools.values())
    names = [alias if key is None else f"{alias}/{key}" for key in pools]
    return Load(used, _mean(latencies[name] for name in names if name in latencies))


def _mean(values: Iterable[float]) -> float | None:
    known = list(values)
    return sum(known) / len(known) if known else None

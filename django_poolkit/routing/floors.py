"""Floors: what a visitor has to see of a cluster, wherever it reads.

A position in the write-ahead log of the cluster's primary, or a time until which it reads that
primary: a *time pin*, where no position can be had. Each ends by itself after a while: then every
replica is taken to have come that far.
"""

from __future__ import annotations

from dataclasses import dataclass

from django_poolkit.pools.postgres.wal import Position

__all__ = ["Floor", "Position", "later"]


@dataclass(frozen=True, slots=True)
class Floor:
    """What is to be seen of one cluster."""

    position: Position | None
    """What a replica must have replayed. None: only the primary will do."""
    expires: float
    """Until when, in seconds as `time.time()` has them."""


def later(one: Floor | None, other: Floor | None) -> Floor | None:
    """Return the floor that fulfils both, of one cluster; None where there is neither.

    Where their positions cannot be compared it is a time pin.
    """
    if one is None or other is None:
        return other if one is None else one
    return Floor(_higher(one.position, other.position), max(one.expires, other.expires))


def _higher(one: Position | None, other: Position | None) -> Position | None:
    if one is None or other is None:
        return None
    if (one.system, one.timeline) != (other.system, other.timeline):
        return None
    return one if one.lsn >= other.lsn else other

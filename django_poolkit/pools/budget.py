"""What a server can give, divided among all who want it, and what to do when that is not enough."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from django_poolkit.pools.fleet import FleetPrediction, Part, simulate_fleet
from django_poolkit.pools.queueing import Prediction, Queue

Word = Literal["fits", "pooler", "too_much"]

SPARE = 5
"""Connections that are left for migrations, monitoring and people, where nobody says otherwise."""
_ROOM_FOR_CLIENTS = 1.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """The connections of one server."""

    max_connections: int
    reserved: int
    """`superuser_reserved_connections`, and `reserved_connections` from PostgreSQL 16 on."""
    others: int = 0
    """Those that are no matter of these pools."""
    beside: int = 0
    """Of these, those that come with each host, as its asyncpg pools."""
    spare: int = SPARE

    @property
    def usable(self) -> int:
        """What an ordinary role can have of them."""
        return max(0, self.max_connections - self.reserved)

    @property
    def room(self) -> int:
        """What is left for the pools."""
        return max(0, self.usable - self.others - self.spare)

    def each(self, processes: int) -> int:
        """Return the largest `max_size` that all of so many processes can have at once."""
        return self.room // processes


@dataclass(frozen=True, slots=True, kw_only=True)
class Pooler:
    """How PgBouncer would have to be set, in front of the server."""

    pool_size: int
    max_client_conn: int
    query_wait_timeout: int
    """Seconds."""
    shared: Prediction
    """What would be waited in its one queue."""

    @property
    def settings(self) -> Mapping[str, str]:
        """The lines of its `pgbouncer.ini` that matter here."""
        return {
            "pool_mode": "transaction",
            "default_pool_size": str(self.pool_size),
            "max_client_conn": str(self.max_client_conn),
            "query_wait_timeout": str(self.query_wait_timeout),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Whether what is needed can be had, and how."""

    word: Word
    """`fits`: each process with its own pool, straight to the server. `pooler`: no longer, but
    through one queue for all. `too_much`: not even so."""
    processes: int
    needed: int
    """Connections, should each pool have its size."""
    room: int
    pooler: Pooler | None = None
    direct: FleetPrediction | None = None
    """What happens where `needed` are more than `room`, and there is no pooler."""
    hosts_that_fit: int = 0
    """Hosts like one of these that get by without a pooler, each with as much to do."""
    beyond: Pooler | None = None
    """Where it fits: how PgBouncer has to be set with one host more than that. None where there is
    then more work than connections."""


def plan(
    parts: Sequence[Part], budget: Budget, target: float, *, timeout: float, hosts: int = 1
) -> Plan:
    """Say how these processes of so many hosts get along with what the server has.

    `target` seconds are those of the p99 of waits. A pool per process is best as long as all of
    them fit: nothing stands in between. When they do not, their sum is large because each has
    to have some in reserve for its own peaks, and one queue for all needs far fewer. Takes some
    tenths of a second.
    """
    needed = sum(part.processes * part.size for part in parts)
    found = Plan(
        word="fits",
        processes=sum(part.processes for part in parts),
        needed=needed,
        room=budget.room,
        # Each brings along its own, and what is beside them.
        hosts_that_fit=(budget.room + hosts * budget.beside)
        * hosts
        // max(1, needed + hosts * budget.beside),
    )
    if needed <= budget.room:
        more = found.hosts_that_fit + 1
        left = budget.room - (more - hosts) * budget.beside
        grown = [replace(part, processes=part.processes * more // hosts) for part in parts]
        return replace(found, beyond=_pooler(grown, left, target, timeout))
    pooler = _pooler(parts, budget.room, target, timeout)
    direct = simulate_fleet(parts, budget.room, timeout=timeout)
    return replace(found, word="pooler" if pooler else "too_much", pooler=pooler, direct=direct)


def _pooler(parts: Sequence[Part], room: int, target: float, timeout: float) -> Pooler | None:
    """Return how PgBouncer has one queue for all keep the target, None where it cannot."""
    loads = [load for part in parts if (load := part.total) is not None]
    if not loads:
        return None
    queue = Queue(loads, timeout=timeout)
    size = queue.smallest(target, most=room)
    if size is None:
        return None
    needed = sum(part.processes * part.size for part in parts)
    return Pooler(
        pool_size=size,
        # Who is refused there gets an error instead of a place in the queue; a client costs
        # PgBouncer a few kilobytes, so that there is no reason to be close.
        max_client_conn=math.ceil(needed * _ROOM_FOR_CLIENTS),
        # As long as a caller waits for a connection here, and no longer.
        query_wait_timeout=max(1, math.ceil(timeout)),
        shared=queue.at(size),
    )

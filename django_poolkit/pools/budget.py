"""What a server can give, divided among all who want it, and what to do when that is not enough."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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


def plan(parts: Sequence[Part], budget: Budget, target: float, *, timeout: float) -> Plan:
    """Say how these processes get along with what the server has.

    `target` seconds are those of the p99 of waits. A pool per process is best as long as all of
    them fit: nothing stands in between. When they do not, their sum is large because each has
    to have some in reserve for its own peaks, and one queue for all needs far fewer. Takes some
    tenths of a second where they do not fit.
    """
    processes = sum(part.processes for part in parts)
    needed = sum(part.processes * part.size for part in parts)
    if needed <= budget.room:
        return Plan(word="fits", processes=processes, needed=needed, room=budget.room)
    loads = [load for part in parts if (load := part.total) is not None]
    direct = simulate_fleet(parts, budget.room, timeout=timeout)
    queue = Queue(loads, timeout=timeout)
    size = queue.smallest(target, most=budget.room) if loads else None
    if size is None:
        return Plan(
            word="too_much", processes=processes, needed=needed, room=budget.room, direct=direct
        )
    return Plan(
        word="pooler",
        processes=processes,
        needed=needed,
        room=budget.room,
        pooler=_pooler(queue.at(size), needed, timeout),
        direct=direct,
    )


def _pooler(shared: Prediction, needed: int, timeout: float) -> Pooler:
    return Pooler(
        pool_size=shared.size,
        # Who is refused there gets an error instead of a place in the queue; a client costs
        # PgBouncer a few kilobytes, so that there is no reason to be close.
        max_client_conn=math.ceil(needed * _ROOM_FOR_CLIENTS),
        # As long as a caller waits for a connection here, and no longer.
        query_wait_timeout=max(1, math.ceil(timeout)),
        shared=shared,
    )

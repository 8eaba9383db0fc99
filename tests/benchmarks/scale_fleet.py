"""Many processes on the connections of one server: simulated, and in small tried for real.

What is simulated is the same for the same numbers: the callers are drawn from one seed.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import psycopg

from django_poolkit.pools.budget import Budget, Plan, plan
from django_poolkit.pools.fleet import FleetPrediction, Part, simulate_fleet
from django_poolkit.pools.postgres import ConnectionPool
from django_poolkit.pools.queueing import Load, Prediction, Queue
from django_poolkit.pools.sizing import UseTimes
from django_poolkit.testing import Node
from django_poolkit.testing.pgbouncer import PgBouncer, find_pgbouncer
from tests.benchmarks.figures import Row

EACH, SHARED = "a pool each", "PgBouncer"
TARGET: Final = 0.05
ROLE: Final = "of_the_fleet"


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """Processes that all do the same, and what a server has for them."""

    processes: int
    connections: int
    size: int
    """`max_size` of the pool of each."""
    rate: float
    """Acquires per second of each."""
    use: float = 0.02
    """Seconds of a lease, on average."""
    timeout: float = 5.0

    @property
    def part(self) -> Part:
        """The processes, as they are simulated."""
        load = Load(asked=((60.0, self.rate),), use=UseTimes.exponential(self.use))
        return Part(processes=self.processes, size=self.size, load=load)

    def direct(self) -> FleetPrediction:
        """Predict what they do to each other."""
        return simulate_fleet([self.part], self.connections, timeout=self.timeout)

    def shared(self) -> Prediction | None:
        """Predict what they wait in one queue, before the fewest connections that do."""
        assert self.part.total is not None
        queue = Queue([self.part.total], timeout=self.timeout)
        size = queue.smallest(TARGET, most=self.connections)
        return None if size is None else queue.at(size)

    def plan(self) -> Plan:
        """Return what is advised."""
        budget = Budget(max_connections=self.connections, reserved=0, spare=0)
        return plan([self.part], budget, TARGET, timeout=self.timeout)


SMALL: Final = Fleet(processes=12, connections=6, size=1, rate=5.0, timeout=0.5)
"""One that can be tried on any machine: it computes nothing, and has work for one connection."""


def simulated(counts: list[int]) -> Iterator[Row]:
    """Provide what so many processes meet, each with two requests a second of 20 ms."""
    for count in counts:
        fleet = Fleet(processes=count, connections=92, size=2, rate=2.0)
        yield from rows(f"{fleet.connections} connections, simulated", fleet)


def rows(of: str, fleet: Fleet) -> Iterator[Row]:
    """Provide both predictions about a fleet."""
    direct, shared = fleet.direct(), fleet.shared()
    yield _row(of, fleet, EACH, direct.timeouts, direct.p99, direct.connections)
    if shared is not None:
        yield _row(of, fleet, SHARED, shared.timeouts, shared.p99, shared.size)


def _row(of: str, fleet: Fleet, who: str, vain: float, p99: float, connections: int) -> Row:
    return {
        "of": of, "count": fleet.processes, "contestant": who, "vain": 100 * vain, "p99": p99,
        "connections": connections,
    }  # fmt: skip


# -- for real


@dataclass(frozen=True, kw_only=True)
class Tried:
    """What a fleet met on a real server."""

    acquires: int
    vain: float
    """Share of those that got nothing."""
    without: int
    """Processes that were asked for connections, and never had one."""
    p99: float
    """Seconds that were waited, wherever."""
    connections: int
    """On the server, at most."""


def tried(node: Node, fleet: Fleet, seconds: float) -> tuple[Tried, Tried | None]:
    """Have a fleet use a real server, directly and through PgBouncer, set as `fleet.plan()` says.

    The latter is None where no PgBouncer is installed, or none is advised. Each process is a pool
    of its own here: the server cannot tell.
    """
    node.execute(f"CREATE ROLE {ROLE} LOGIN PASSWORD '{ROLE}' CONNECTION LIMIT {fleet.connections}")
    as_role = {"user": ROLE, "password": ROLE, "autocommit": True}
    try:
        with _silent():
            direct = _use(node, fleet, seconds, node.conninfo() | as_role, {})
        pooler = fleet.plan().pooler
        if pooler is None or find_pgbouncer() is None:
            return direct, None
        with PgBouncer(node, users={ROLE: ROLE}, **pooler.settings) as between:
            declared = {"pooler": "pgbouncer-transaction"}
            place = between.conninfo() | as_role
            return direct, _use(node, fleet, seconds, place, declared)
    finally:
        node.execute(f"DROP ROLE {ROLE}")


@contextmanager
def _silent() -> Iterator[None]:
    """Have nothing said of connects that the server refuses, which is what is tried."""
    logger = logging.getLogger("django_poolkit")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def _use(
    node: Node, fleet: Fleet, seconds: float, place: dict[str, Any], declared: dict[str, Any]
) -> Tried:
    chance = random.Random(12)
    options: dict[str, Any] = {"min_size": 0, "max_size": fleet.size, "timeout": fleet.timeout}
    pools = [
        ConnectionPool(kwargs=place, name=f"process{number}", open=True, **options, **declared)
        for number in range(fleet.processes)
    ]
    sessions = 0
    began = at = time.monotonic()
    try:
        with ThreadPoolExecutor(max(32, round(4 * fleet.processes * fleet.rate))) as threads:
            calls = []
            while at < began + seconds:
                at += chance.expovariate(fleet.processes * fleet.rate)
                time.sleep(max(0.0, at - time.monotonic()))
                use = chance.expovariate(1 / fleet.use)
                calls.append(threads.submit(_call, chance.choice(pools), use))
                if not len(calls) % 10:
                    sessions = max(sessions, _sessions(node))
            waits = [call.result() for call in calls]
        had = sum(pool.stats().acquired > 0 for pool in pools)
    finally:
        for pool in pools:
            pool.close()
    served = sorted(wait for wait in waits if wait is not None)
    vain = len(waits) - len(served)
    all_waits = served + [fleet.timeout] * vain
    return Tried(
        acquires=len(waits),
        vain=vain / len(waits),
        without=fleet.processes - had,
        p99=sorted(all_waits)[int(0.99 * len(all_waits))],
        connections=sessions,
    )


def _call(pool: ConnectionPool, use: float) -> float | None:
    """Use a connection, and return the seconds that this took longer; None where it was in vain."""
    began = time.monotonic()
    try:
        with pool.lease() as connection:
            connection.execute("SELECT pg_sleep(%s)", [use])
    except psycopg.OperationalError:  # no connection here, or no session there
        return None
    return max(0.0, time.monotonic() - began - use)


def _sessions(node: Node) -> int:
    [[count]] = node.execute("SELECT count(*) FROM pg_stat_activity WHERE usename = %s", [ROLE])
    return int(count)


def tried_rows(node: Node, seconds: float = 10.0, fleet: Fleet = SMALL) -> Iterator[Row]:
    """Provide what a small fleet was predicted to meet, and what it met."""
    of = f"{fleet.connections} connections"
    yield from rows(f"{of}, simulated", fleet)
    direct, shared = tried(node, fleet, seconds)
    for who, met in ((EACH, direct), (SHARED, shared)):
        if met is not None:
            yield _row(f"{of}, tried", fleet, who, met.vain, met.p99, met.connections)

"""What `tests.benchmarks.scale` measures in a process of its own: its name, whose, and numbers.

The server's parameters come by standard input, so that no list of processes shows them.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import threading
from collections.abc import Callable
from time import perf_counter
from typing import Any

import psycopg_pool

OURS, THEIRS = "ours", "psycopg_pool"
TIMES = 2_000
SNAPSHOTS = 200
ALIKE: dict[str, Any] = {"autocommit": True, "prepare_threshold": None}


def make(contestant: str, conninfo: dict[str, Any], size: int) -> Any:
    """Return an open pool without a connection."""
    options: dict[str, Any] = {"kwargs": conninfo | ALIKE, "min_size": 0, "max_size": size}
    if contestant == THEIRS:
        return psycopg_pool.ConnectionPool(open=True, timeout=60.0, **options)
    from django_poolkit.pools.postgres import ConnectionPool

    return ConnectionPool(open=True, timeout=60.0, **options)


def cycle_of(pool: Any) -> Callable[[], object]:
    """Return acquire and release, by the names that the pool itself prefers."""
    if hasattr(pool, "acquire"):
        return lambda: pool.acquire().release()
    return lambda: pool.putconn(pool.getconn())


def stats_of(pool: Any) -> Callable[[], object]:
    """Return what a pool's figures are asked by."""
    found: Callable[[], object] = pool.stats if hasattr(pool, "stats") else pool.get_stats
    return found


def us(work: Callable[[], object], times: int) -> float:
    """Return the microseconds of one call."""
    work()
    gc.disable()
    try:
        started = perf_counter()
        for _ in range(times):
            work()
        return (perf_counter() - started) / times * 1e6
    finally:
        gc.enable()


def pools(conninfo: dict[str, Any], contestant: str, count: int) -> dict[str, Any]:
    """Measure with so many pools, one of which is used."""
    used = make(contestant, conninfo, 1)
    cycle = cycle_of(used)
    cycle()
    memory, threads = resident(), threading.active_count()
    idle = [make(contestant, conninfo, 1) for _ in range(count - 1)]
    more = max(1, count - 1)
    found = {
        "kib": max(0.0, (resident() - memory) / 1024 / more),
        "threads": (threading.active_count() - threads) / more,
        "us": us(cycle, TIMES),
    }
    for pool in (used, *idle):
        pool.close()
    return found


def resident() -> int:
    """Return the bytes that this process occupies."""
    from example_project.vitals import vitals

    gc.collect()
    return vitals(os.getpid()).memory


def leases(conninfo: dict[str, Any], contestant: str, count: int, rounds: int) -> dict[str, Any]:
    """Measure while so many are leased."""
    pool = make(contestant, conninfo, count + 1)
    acquire = pool.acquire if hasattr(pool, "acquire") else pool.getconn
    held = [acquire() for _ in range(count)]
    cycle, stats = cycle_of(pool), stats_of(pool)
    found: dict[str, Any] = {
        "acquire, leases": [us(cycle, TIMES) for _ in range(rounds)],
        "stats(), leases": [us(stats, SNAPSHOTS) for _ in range(rounds)],
    }
    for each in held:
        each.release() if hasattr(each, "release") else pool.putconn(each)
    pool.close()
    return found


def hosts(conninfo: dict[str, Any], contestant: str, count: int, rounds: int) -> dict[str, Any]:
    """Measure the choice of a host, of servers that are nowhere."""
    import django
    from django.conf import settings

    from django_poolkit.routing import scope

    entry = {"ENGINE": "django_poolkit.backends.postgresql", "NAME": "nowhere"}
    places = [{"HOST": f"10.0.0.{number + 1}"} for number in range(count)]
    settings.configure(
        INSTALLED_APPS=["django_poolkit"],
        DATABASES={"default": entry, "replicas": {**entry, "OPTIONS": {"hosts": places}}},
        LOGGING_CONFIG=None,
    )
    django.setup()
    from django_poolkit.routing.choice import host_for

    weights = {str(number + 1): 1.0 for number in range(count)}

    def choose() -> None:
        with scope():
            host_for("replicas", weights)

    return {"us": [us(choose, TIMES) for _ in range(rounds)]}


def main() -> None:
    """Measure what the arguments say, and print it."""
    what, contestant, *numbers = sys.argv[1:]
    known: dict[str, Callable[..., dict[str, Any]]] = {
        "pools": pools, "leases": leases, "hosts": hosts,
    }  # fmt: skip
    given = json.load(sys.stdin)
    if what == "replicas":
        from tests.benchmarks.scale_replicas import measure

        print(json.dumps(measure(given, int(numbers[0]))))
        return
    print(json.dumps(known[what](given, contestant, *map(int, numbers))))


if __name__ == "__main__":
    main()

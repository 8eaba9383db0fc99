"""What a lease costs in a task, and how fair the queue is: one run, side by side."""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
import psycopg_pool

from django_poolkit.pools.postgres import ConnectionPool
from django_poolkit.testing import Cluster

READING = """
contestants:
  held       one psycopg.AsyncConnection, held on to: the floor
  ours       async with pool.alease() as connection, for each query
  theirs     async with pool.connection() as connection, of psycopg_pool.AsyncConnectionPool

how to read the table:
  All are in autocommit, and take turns in short rounds of `SELECT 1`. "us" is the median over the
  rounds of a round's time for one query, "least" the quickest round. Nothing is prepared.
  The second table is of 100 tasks on 10 connections: queries a second, the longest that anybody
  waited in ms, and Jain's index of how often each was served in the time (1.0: all alike). Compare
  figures of one run, never of two.

examples:
  python -m tests.benchmarks.alease                   for a first look
  python -m tests.benchmarks.alease --rounds 60       for figures that are to be quoted
  python -m tests.benchmarks.alease --json            the same, for another program
"""

HELD, OURS, THEIRS = "held", "ours", "theirs"
# As the pool has it by default, and so for all.
ALIKE: dict[str, Any] = {"autocommit": True, "prepare_threshold": None}
Query = Callable[[], Awaitable[Any]]


async def _round(query: Query, queries: int) -> float:
    started = time.perf_counter()
    for _ in range(queries):
        await query()
    return (time.perf_counter() - started) / queries * 1e6


def _pools(
    where: dict[str, Any], size: int
) -> tuple[ConnectionPool, psycopg_pool.AsyncConnectionPool[Any]]:
    kwargs = {**where, **ALIKE}
    theirs: psycopg_pool.AsyncConnectionPool[Any] = psycopg_pool.AsyncConnectionPool(
        kwargs=kwargs, min_size=size, max_size=size, timeout=60.0, open=False
    )
    ours = ConnectionPool(kwargs=kwargs, min_size=size, max_size=size, timeout=60.0)
    return ours, theirs


async def cost(where: dict[str, Any], rounds: int, queries: int) -> list[dict[str, Any]]:
    """Return a row for each contestant."""
    held = await psycopg.AsyncConnection.connect(**where, **ALIKE)
    ours, theirs = _pools(where, 1)
    await theirs.open()

    async def by_held() -> None:
        await held.execute("SELECT 1")

    async def by_ours() -> None:
        async with ours.alease() as connection:
            await connection.execute("SELECT 1")

    async def by_theirs() -> None:
        async with theirs.connection() as connection:
            await connection.execute("SELECT 1")

    queries_of: dict[str, Query] = {HELD: by_held, OURS: by_ours, THEIRS: by_theirs}
    times: dict[str, list[float]] = {name: [] for name in queries_of}
    for number in range(rounds + 1):
        for name, query in queries_of.items():
            seconds = await _round(query, queries)
            if number:  # the first warms up
                times[name].append(seconds)
    await held.close()
    await theirs.close()
    await asyncio.to_thread(ours.close)
    return [
        {"contestant": name, "us": statistics.median(found), "least": min(found)}
        for name, found in times.items()
    ]


async def fairness(where: dict[str, Any], seconds: float) -> list[dict[str, Any]]:
    """Return a row for each pool: 100 tasks on 10 connections."""
    ours, theirs = _pools(where, 10)
    await theirs.open(wait=True)
    await asyncio.to_thread(ours.open, True)
    rows = []
    for name, enter in ((OURS, ours.alease), (THEIRS, theirs.connection)):
        served, waits = [0] * 100, [0.0] * 100
        end = time.perf_counter() + seconds

        async def work(
            number: int,
            enter: Any = enter,
            served: list[int] = served,
            waits: list[float] = waits,
            end: float = end,
        ) -> None:
            while (started := time.perf_counter()) < end:
                async with enter() as connection:
                    waits[number] = max(waits[number], time.perf_counter() - started)
                    await connection.execute("SELECT 1")
                served[number] += 1

        await asyncio.gather(*(work(number) for number in range(100)))
        total = sum(served)
        rows.append(
            {
                "contestant": name,
                "per second": total / seconds,
                "longest wait": max(waits) * 1000,
                "jain": total**2 / (100 * sum(count**2 for count in served)),
            }
        )
    await theirs.close()
    await asyncio.to_thread(ours.close)
    return rows


def _table(rows: list[dict[str, Any]]) -> str:
    lines = ["  ".join(f"{name:>12}" for name in rows[0])]
    for row in rows:
        cells = [v if isinstance(v, str) else f"{v:.3f}" for v in row.values()]
        lines.append("  ".join(f"{cell:>12}" for cell in cells))
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=READING, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--queries", type=int, default=200, help="of each round")
    parser.add_argument("--seconds", type=float, default=3.0, help="of the second table, a pool")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    with Cluster() as cluster:
        where = cluster.primary.conninfo()
        costs = asyncio.run(cost(where, options.rounds, options.queries))
        fair = asyncio.run(fairness(where, options.seconds))
    if options.json:
        json.dump({"cost": costs, "fairness": fair}, sys.stdout)
        return
    print(_table(costs), _table(fair), sep="\n\n")
    us = {row["contestant"]: row["us"] for row in costs}
    print(
        f"\nours takes {us[OURS] - us[HELD]:+.1f} us beside held ({us[OURS] / us[HELD]:.2f} x); "
        f"theirs takes {us[THEIRS] / us[OURS]:.2f} x ours"
    )


if __name__ == "__main__":
    main()

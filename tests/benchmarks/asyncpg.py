"""What a lease of an asyncpg pool costs, and how fair it is: one run, side by side."""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg

from django_poolkit.pools.asyncpg.pool import AsyncpgPool
from django_poolkit.testing import Cluster

READING = """
contestants:
  held       one connection of asyncpg's, held on to: the floor
  ours       async with pool.lease() as connection, for each query
  theirs     async with pool.acquire() as connection, of asyncpg's own pool, for each query
  no reset   the same with a reset that does nothing: what is left is asyncpg's own way

how to read the table:
  The contestants take turns in short rounds of `SELECT 1`. "us" is the median over the rounds of a
  round's time for one query, "least" the quickest round. The second table is of 100 tasks on 10
  connections: queries a second, the longest that anybody waited, and Jain's index of how often each
  was served in the time (1.0: all alike). Compare figures of one run, never of two.

examples:
  python -m tests.benchmarks.asyncpg                   for a first look
  python -m tests.benchmarks.asyncpg --rounds 60       for figures that are to be quoted
  python -m tests.benchmarks.asyncpg --json            the same, for another program
"""

HELD, OURS, THEIRS, BARE = "held", "ours", "theirs", "no reset"
Query = Callable[[], Awaitable[Any]]


async def _nothing(connection: Any) -> None:
    pass


async def _round(query: Query, queries: int) -> float:
    started = time.perf_counter()
    for _ in range(queries):
        await query()
    return (time.perf_counter() - started) / queries * 1e6


async def cost(where: dict[str, Any], rounds: int, queries: int) -> list[dict[str, Any]]:
    """Return a row for each contestant."""
    held = await asyncpg.connect(**where)
    ours = AsyncpgPool(where, max_size=1)
    theirs = await asyncpg.create_pool(min_size=1, max_size=1, **where)
    bare = await asyncpg.create_pool(min_size=1, max_size=1, reset=_nothing, **where)

    async def by_held() -> None:
        await held.fetchval("SELECT 1")

    async def by_ours() -> None:
        async with ours.lease() as connection:
            await connection.fetchval("SELECT 1")

    async def by_theirs() -> None:
        async with theirs.acquire() as connection:
            await connection.fetchval("SELECT 1")

    async def by_bare() -> None:
        async with bare.acquire() as connection:
            await connection.fetchval("SELECT 1")

    queries_of: dict[str, Query] = {HELD: by_held, OURS: by_ours, THEIRS: by_theirs, BARE: by_bare}
    times: dict[str, list[float]] = {name: [] for name in queries_of}
    for number in range(rounds + 1):
        for name, query in queries_of.items():
            seconds = await _round(query, queries)
            if number:  # the first warms up
                times[name].append(seconds)
    await held.close()
    for pool in (ours, theirs, bare):
        await pool.close()
    return [
        {"contestant": name, "us": statistics.median(found), "least": min(found)}
        for name, found in times.items()
    ]


async def fairness(where: dict[str, Any], seconds: float) -> list[dict[str, Any]]:
    """Return a row for each pool: 100 tasks on 10 connections."""
    ours = AsyncpgPool(where, max_size=10, TIMEOUT=60.0)
    theirs = await asyncpg.create_pool(min_size=10, max_size=10, **where)
    rows = []
    for name, enter in ((OURS, ours.lease), (THEIRS, theirs.acquire)):
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
                    await connection.fetchval("SELECT 1")
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
    for pool in (ours, theirs):
        await pool.close()
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
        node = cluster.primary
        where = {
            "host": node.host, "port": node.port, "user": node.user, "password": node.password,
            "database": node.dbname,
        }  # fmt: skip
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

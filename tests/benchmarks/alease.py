"""What a lease costs in a task, and how fair the queue is: one run, side by side."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg
import psycopg_pool

from django_poolkit.pools.postgres import ConnectionPool
from django_poolkit.testing import Node
from tests.benchmarks.contest import CONNECTIONS, HELD, OURS, THEIRS, Row, crowd, run, turns

READING = """
contestants:
  held       one psycopg.AsyncConnection, held on to: the floor
  ours       async with pool.alease() as connection, for each query
  theirs     async with pool.connection() as connection, of psycopg_pool.AsyncConnectionPool

how to read the table:
  All are in autocommit, and take turns in short rounds of `SELECT 1`. "us" is the median over the
  rounds of a round's time for one query, "least" and "most" the quickest round and the slowest.
  Nothing is prepared.
  The second table is of 100 tasks on 10 connections: queries a second, the longest that anybody
  waited in ms, and Jain's index of how often each was served in the time (1.0: all alike). Compare
  figures of one run, never of two.

examples:
  python -m tests.benchmarks.alease                   for a first look
  python -m tests.benchmarks.alease --rounds 60       for figures that are to be quoted
  python -m tests.benchmarks.alease --json            the same, for another program
"""

# As the pool has it by default, and so for all.
ALIKE: dict[str, Any] = {"autocommit": True, "prepare_threshold": None}


def _pools(node: Node, size: int) -> tuple[ConnectionPool, psycopg_pool.AsyncConnectionPool[Any]]:
    kwargs = {**node.conninfo(), **ALIKE}
    theirs: psycopg_pool.AsyncConnectionPool[Any] = psycopg_pool.AsyncConnectionPool(
        kwargs=kwargs, min_size=size, max_size=size, timeout=60.0, open=False
    )
    ours = ConnectionPool(kwargs=kwargs, min_size=size, max_size=size, timeout=60.0)
    return ours, theirs


async def cost(node: Node, rounds: int, queries: int) -> list[Row]:
    """Return a row for each contestant."""
    held = await psycopg.AsyncConnection.connect(**node.conninfo(), **ALIKE)
    ours, theirs = _pools(node, 1)
    await theirs.open()

    async def by_held() -> None:
        await held.execute("SELECT 1")

    async def by_ours() -> None:
        async with ours.alease() as connection:
            await connection.execute("SELECT 1")

    async def by_theirs() -> None:
        async with theirs.connection() as connection:
            await connection.execute("SELECT 1")

    rows = await turns({HELD: by_held, OURS: by_ours, THEIRS: by_theirs}, rounds, queries)
    await held.close()
    await theirs.close()
    await asyncio.to_thread(ours.close)
    return rows


async def fairness(node: Node, seconds: float) -> list[Row]:
    """Return a row for each pool."""
    ours, theirs = _pools(node, CONNECTIONS)
    await theirs.open(wait=True)
    await asyncio.to_thread(ours.open, True)

    async def query(connection: Any) -> None:
        await connection.execute("SELECT 1")

    rows = [
        await crowd(OURS, ours.alease, query, seconds),
        await crowd(THEIRS, theirs.connection, query, seconds),
    ]
    await theirs.close()
    await asyncio.to_thread(ours.close)
    return rows


def main(arguments: list[str] | None = None) -> None:
    """Measure, and print."""
    run(__doc__, READING, cost, fairness, arguments)


if __name__ == "__main__":
    main()

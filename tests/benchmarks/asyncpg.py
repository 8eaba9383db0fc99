"""What a lease of an asyncpg pool costs, and how fair it is: one run, side by side."""

from __future__ import annotations

from typing import Any

import asyncpg

from django_poolkit.pools.asyncpg.pool import AsyncpgPool
from django_poolkit.testing import Node
from tests.benchmarks.contest import CONNECTIONS, HELD, OURS, THEIRS, Row, crowd, run, turns

READING = """
contestants:
  held       one connection of asyncpg's, held on to: the floor
  ours       async with pool.lease() as connection, for each query
  theirs     async with pool.acquire() as connection, of asyncpg's own pool, for each query
  no reset   the same with a reset that does nothing: what is left is asyncpg's own way

how to read the table:
  The contestants take turns in short rounds of `SELECT 1`. "us" is the median over the rounds of a
  round's time for one query, "least" and "most" the quickest round and the slowest. The second
  table is of 100 tasks on 10 connections: queries a second, the longest that anybody waited, and
  Jain's index of how often each was served in the time (1.0: all alike). Compare figures of one
  run, never of two.

examples:
  python -m tests.benchmarks.asyncpg                   for a first look
  python -m tests.benchmarks.asyncpg --rounds 60       for figures that are to be quoted
  python -m tests.benchmarks.asyncpg --json            the same, for another program
"""

BARE = "no reset"


async def _nothing(connection: Any) -> None:
    pass


def _where(node: Node) -> dict[str, Any]:
    return {
        "host": node.host, "port": node.port, "user": node.user, "password": node.password,
        "database": node.dbname,
    }  # fmt: skip


async def cost(node: Node, rounds: int, queries: int) -> list[Row]:
    """Return a row for each contestant."""
    where = _where(node)
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

    queries_of = {HELD: by_held, OURS: by_ours, THEIRS: by_theirs, BARE: by_bare}
    rows = await turns(queries_of, rounds, queries)
    await held.close()
    for pool in (ours, theirs, bare):
        await pool.close()
    return rows


async def fairness(node: Node, seconds: float) -> list[Row]:
    """Return a row for each pool."""
    where, size = _where(node), CONNECTIONS
    ours = AsyncpgPool(where, max_size=size, TIMEOUT=60.0)
    theirs = await asyncpg.create_pool(min_size=size, max_size=size, **where)

    async def query(connection: Any) -> None:
        await connection.fetchval("SELECT 1")

    rows = [
        await crowd(OURS, ours.lease, query, seconds),
        await crowd(THEIRS, theirs.acquire, query, seconds),
    ]
    for pool in (ours, theirs):
        await pool.close()
    return rows


def main(arguments: list[str] | None = None) -> None:
    """Measure, and print."""
    run(__doc__, READING, cost, fairness, arguments)


if __name__ == "__main__":
    main()

"""A user's code, for the type checkers: what they have to know of the public API.

Nothing here runs. CI has mypy and pyright look at it, as strictly as they can.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, assert_type

import aiohttp
import psycopg

from django_poolkit import (
    PoolStats,
    PoolTimeout,
    asyncpg_pools,
    client_sessions,
    connection_pools,
    deadline,
    share,
)
from django_poolkit.aio import aatomic, apinned, bridged
from django_poolkit.pools.postgres import ConnectionPool
from django_poolkit.retry import aretry_read, retry_read
from django_poolkit.routing import is_read_only, use_primary


def pools() -> None:
    pool = connection_pools["default"]
    assert_type(pool, ConnectionPool)
    assert_type(pool.stats(), PoolStats)
    with pool.lease(timeout=1.0) as connection:
        held: psycopg.Connection[Any] = connection
        assert_type(held.execute("SELECT 1").fetchone(), Any | None)
    try:
        pool.resize(1, 4)
    except PoolTimeout as error:
        assert_type(error.stats, PoolStats | None)


async def tasks() -> None:
    async with connection_pools["default"].alease() as connection:
        assert_type(connection, psycopg.AsyncConnection[Any])
    async with asyncpg_pools["default"].lease(timeout=1.0) as other:
        await other.fetchval("SELECT 1")
    async with client_sessions["default"].get("https://example.com") as response:
        assert_type(response, aiohttp.ClientResponse)


@bridged
def total(prices: Sequence[int], tax: float = 0.0) -> float:
    return sum(prices) * (1 + tax)


@share("reports")
def report(year: int) -> str:
    return str(year)


@retry_read
def read(name: str) -> int:
    return len(name)


@aretry_read(attempts=2)
async def aread(name: str) -> int:
    return len(name)


@aatomic
async def order(number: int) -> bool:
    return number > 0


async def decorated() -> None:
    assert_type(await total([1, 2], tax=0.1), float)
    assert_type(report(2026), str)
    assert_type(read("a"), int)
    assert_type(await aread("a"), int)
    assert_type(await order(1), bool)
    async with aatomic(using="default"), apinned():
        pass
    with deadline(2.0) as left, use_primary():
        assert_type(left.left(), float)
    assert_type(is_read_only("default"), bool)

"""Crowds that wait for the one connection of a pool: what the hand-over costs each of them."""

from __future__ import annotations

import asyncio
import gc
import threading
from time import perf_counter
from typing import Any

import psycopg_pool

from django_poolkit.pools.postgres import ConnectionPool
from django_poolkit.testing import Node
from django_poolkit.testing.waiting import wait_until
from tests.benchmarks.scale_one import ALIKE, OURS, make, stats_of, us

SNAPSHOTS = 50
PATIENCE = 120.0


def of_threads(contestant: str, node: Node, count: int) -> tuple[float, float]:
    """Return microseconds of a hand-over, and of stats() while so many threads wait."""
    pool = make(contestant, node.conninfo(), 1)
    acquire = pool.acquire if contestant == OURS else pool.getconn
    give = (lambda lease: lease.release()) if contestant == OURS else pool.putconn
    held = acquire()

    def work() -> None:
        give(acquire(PATIENCE))

    crew = [threading.Thread(target=work) for _ in range(count)]
    for thread in crew:
        thread.start()
    wait_until(lambda: waiters(pool) == count, PATIENCE)
    stats = us(stats_of(pool), SNAPSHOTS)
    started = perf_counter()
    give(held)
    for thread in crew:
        thread.join()
    took = perf_counter() - started
    pool.close()
    return took / count * 1e6, stats


def waiters(pool: Any) -> int:
    """Return how many wait."""
    if isinstance(pool, ConnectionPool):
        return pool.stats().waiters
    return int(pool.get_stats().get("requests_waiting", 0))


async def of_tasks(contestant: str, node: Node, count: int) -> tuple[float, float]:
    """Return the same by tasks."""
    options: dict[str, Any] = {"kwargs": node.conninfo() | ALIKE, "timeout": PATIENCE}
    pool: Any
    if contestant == OURS:
        pool = ConnectionPool(max_size=1, **options)
        enter = pool.alease
    else:
        pool = psycopg_pool.AsyncConnectionPool(min_size=1, max_size=1, open=False, **options)
        await pool.open(wait=True)
        enter = pool.connection

    async def work() -> None:
        async with enter():
            pass

    gc.collect()
    async with enter():
        crew = [asyncio.create_task(work()) for _ in range(count)]
        while waiters(pool) < count:  # noqa: ASYNC110 - theirs tells nobody
            await asyncio.sleep(0)
        stats = us(stats_of(pool), SNAPSHOTS)
        started = perf_counter()
    await asyncio.gather(*crew)
    took = perf_counter() - started
    if contestant == OURS:
        await asyncio.to_thread(pool.close)
    else:
        await pool.close()
    return took / count * 1e6, stats

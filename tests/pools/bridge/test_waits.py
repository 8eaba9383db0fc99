"""Connections of a pool in the bridge: they wait on the loop, and leave nothing running."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from django_poolkit.pools.bridge.driver import run
from django_poolkit.pools.postgres import ConnectionPool
from django_poolkit.testing import Node
from tests.pools.postgres.tasks import run_on_each, running, until_runs

__all__ = ["run_on_each"]

Run = Callable[[Callable[[], Any]], Any]
MakePool = Callable[..., ConnectionPool]


def one(pool: ConnectionPool, text: str = "SELECT 1") -> Any:
    """Run a statement on a lease of its own."""
    with pool.lease() as connection:
        return connection.execute(text).fetchone()[0]


def test_a_statement_waits_on_the_loop(run_on_each: Run, make_pool: MakePool) -> None:
    pool = make_pool(max_size=1)

    async def main() -> int:
        ticks = 0
        task = asyncio.create_task(run(one, pool, "SELECT 7 FROM pg_sleep(0.2)"))
        while not task.done():
            await asyncio.sleep(0.001)
            ticks += 1
        assert await task == 7
        return ticks

    assert run_on_each(main) > 20
    assert pool.stats().used == 0


def test_calls_run_beside_each_other(
    run_on_each: Run, make_pool: MakePool, primary: Node, app: str
) -> None:
    pool = make_pool(max_size=3, kwargs={"application_name": app})

    async def main() -> None:
        calls = [asyncio.create_task(run(one, pool, "SELECT pg_sleep(60)")) for _ in range(3)]
        await until_runs(primary, app, count=3)
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
        assert running(primary, app) == []

    run_on_each(main)
    stats = pool.stats()
    assert (stats.used, stats.idle) == (0, 3)


def test_no_thread_is_started_for_statements(run_on_each: Run, make_pool: MakePool) -> None:
    pool = make_pool(max_size=2)
    pool.open(wait=True)
    one(pool)

    async def main() -> None:
        before = set(threading.enumerate())
        for _ in range(20):
            await run(one, pool)
        assert set(threading.enumerate()) <= before

    run_on_each(main)


def test_an_error_of_the_server_is_raised_in_the_function(
    run_on_each: Run, make_pool: MakePool
) -> None:
    pool = make_pool(max_size=1)

    def work() -> None:
        with pool.lease() as connection:
            with pytest.raises(psycopg.errors.DivisionByZero):
                connection.execute("SELECT 1/0")
            connection.rollback()
            assert connection.execute("SELECT 1").fetchone() == (1,)

    async def main() -> None:
        await run(work)

    run_on_each(main)

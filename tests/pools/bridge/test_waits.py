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


def test_what_needs_no_wait_lets_others_run_now_and_then(
    run_on_each: Run, make_pool: MakePool, primary: Node
) -> None:
    """A COPY of many rows into a socket that takes them all."""
    pool = make_pool(max_size=1)

    def copy() -> int:
        with pool.lease() as connection:
            connection.execute("CREATE TEMP TABLE copied (line text)")
            with connection.cursor().copy("COPY copied FROM STDIN") as rows:
                for _ in range(20_000):
                    rows.write_row(("x" * 200,))
            return connection.execute("SELECT count(*) FROM copied").fetchone()[0]  # type: ignore[no-any-return]

    async def main() -> int:
        ticks = 0
        task = asyncio.create_task(run(copy))
        while not task.done():
            await asyncio.sleep(0)
            ticks += 1
        assert await task == 20_000
        return ticks

    assert run_on_each(main) > 10


def test_streams_copies_pipelines_and_named_cursors(run_on_each: Run, make_pool: MakePool) -> None:
    pool = make_pool(max_size=1)

    def work() -> None:
        with pool.lease() as connection:
            numbers = "SELECT generate_series(1, 5000)"
            assert sum(row[0] for row in connection.cursor().stream(numbers)) == 12_502_500
            with connection.cursor("named") as cursor:
                cursor.execute(numbers)
                assert sum(row[0] for row in cursor) == 12_502_500
            with connection.pipeline():
                cursors = [connection.execute("SELECT %s::int", (n,)) for n in range(20)]
            assert [cursor.fetchone()[0] for cursor in cursors] == list(range(20))
            with connection.cursor().copy(f"COPY ({numbers}) TO STDOUT") as rows:
                assert len(b"".join(rows)) > 5000

    async def main() -> None:
        await run(work)

    run_on_each(main)
    assert (pool.stats().used, pool.stats().idle) == (0, 1)


def test_notifications_are_waited_for_on_the_loop(run_on_each: Run, make_pool: MakePool) -> None:
    pool = make_pool(max_size=2)

    def listen(ready: asyncio.Event) -> list[str]:
        with pool.lease() as connection:
            connection.autocommit = True
            connection.execute("LISTEN bridge")
            ready.set()
            found = [each.payload for each in connection.notifies(stop_after=1)]
            assert list(connection.notifies(timeout=0.05)) == []  # its time is bounded, too
            return found

    async def main() -> None:
        ready = asyncio.Event()
        task = asyncio.create_task(run(listen, ready))
        await ready.wait()
        await run(one, pool, "SELECT 1 FROM pg_notify('bridge', 'heard')")
        assert await task == ["heard"]

    run_on_each(main)

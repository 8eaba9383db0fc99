"""Cancellation of a call in the bridge at each wait: no slot lost, and nothing left running."""

from __future__ import annotations

import asyncio
import random
import threading
from typing import Any

import psycopg
import pytest
from psycopg.pq import TransactionStatus

from django_poolkit.pools.bridge.driver import run
from django_poolkit.pools.deadline import deadline
from django_poolkit.pools.postgres import late
from django_poolkit.pools.postgres.errors import DeadlineExceeded
from tests.pools.bridge.support import by_itself, one
from tests.pools.postgres.tasks import (
    SLEEP,
    assert_idle_on_server,
    assert_quiet,
    cancelled,
    run_on_each,
    running,
    slow_to_commit,
    until,
    until_runs,
)

__all__ = ["run_on_each"]


@pytest.fixture
def pool(make_pool, app):
    """A pool whose statements can be seen on the server."""
    return make_pool(max_size=2, kwargs={"application_name": app})


def test_a_statement_is_cancelled_on_the_server(pool, primary, app, run_on_each):
    async def main():
        task = asyncio.ensure_future(run(one, pool, SLEEP))
        await until_runs(primary, app)
        await cancelled(task)
        assert running(primary, app) == []

    run_on_each(main)
    assert pool.stats().connects == 1
    assert not pool.stats().closed
    assert_quiet(pool)


def test_a_second_cancellation_changes_nothing(pool, primary, app, run_on_each):
    async def main():
        task = asyncio.ensure_future(run(one, pool, SLEEP))
        await until_runs(primary, app)
        for _ in range(20):
            task.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert_idle_on_server(primary, app)

    run_on_each(main)
    assert not pool.stats().closed
    assert_quiet(pool)


def test_a_function_may_go_on_after_a_timeout_of_its_caller(pool, primary, app, run_on_each):
    seen: list[Any] = []

    def work() -> None:
        with pool.lease() as connection:
            connection.autocommit = True
            try:
                connection.execute(SLEEP)
            except asyncio.CancelledError:
                seen.append(connection.execute("SELECT 7").fetchone())
                raise

    async def main():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await run(work)

    run_on_each(main)
    assert seen == [(7,)]
    assert_idle_on_server(primary, app)
    assert_quiet(pool)


def test_a_server_that_says_nothing_is_given_up(far_pool, proxy, run_on_each):
    pool = far_pool(max_size=1)

    async def main():
        connected = asyncio.Event()
        loop = asyncio.get_running_loop()

        def work() -> None:
            lease = pool.acquire()
            try:
                lease.connection.execute("SELECT 1")
                loop.call_soon(connected.set)
                lease.connection.execute(SLEEP)
            finally:
                lease.release()

        task = asyncio.ensure_future(run(work))
        await connected.wait()
        await until(lambda: proxy.open_connections == 1)
        await asyncio.to_thread(proxy.stall)
        ticks, started = 0, loop.time()
        task.cancel()
        while not task.done():
            await asyncio.sleep(0.01)
            ticks += 1
        assert task.cancelled()
        return ticks, loop.time() - started

    ticks, seconds = run_on_each(main)
    assert seconds < 3 * 4 * late.GRACE
    assert ticks > 20  # the loop went on
    proxy.resume()
    assert sum(pool.stats().closed.values()) == 1
    assert_quiet(pool)


def test_a_commit_is_let_end(pool, primary, app, run_on_each):
    def work() -> None:
        with pool.lease() as connection:
            connection.execute("INSERT INTO bridged VALUES (1)")

    async def main():
        task = asyncio.ensure_future(run(work))
        await until_runs(primary, app, "COMMIT")
        await cancelled(task)

    with slow_to_commit(primary, "bridged"):
        run_on_each(main)
        assert primary.execute("SELECT count(*) FROM bridged")[0][0] == 1
    assert pool.stats().connects == 1
    assert_quiet(pool)


def test_a_cancellation_in_the_rollback_of_a_release_loses_no_slot(far_pool, proxy, run_on_each):
    pool = far_pool(max_size=2)

    def work(held: list[Any]) -> None:
        lease = pool.acquire()
        lease.connection.execute("SELECT 1")  # which begins a transaction
        held.append(lease.connection.pgconn)
        lease.release()

    def state() -> tuple[Any, ...]:
        with pool.lease() as connection:
            return connection.autocommit, connection.info.transaction_status

    async def main() -> None:
        for _ in range(10):
            held: list[Any] = []
            task = asyncio.ensure_future(run(work, held))
            await until(lambda held=held: bool(held))  # type: ignore[misc]
            assert held[0].transaction_status == TransactionStatus.ACTIVE  # it rolls back
            task.cancel()
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert await run(state) == (False, TransactionStatus.IDLE)

    proxy.latency = 0.02
    run_on_each(main)
    assert pool.stats().connects == 1
    assert not pool.stats().closed
    assert_quiet(pool)


def test_a_deadline_ends_a_statement_as_in_a_thread(pool, primary, app, run_on_each):
    def work() -> str:
        with pool.lease() as connection:
            connection.autocommit = True
            with deadline(0.2), pytest.raises(DeadlineExceeded):
                connection.execute(SLEEP)
            return connection.execute("SELECT 'usable'").fetchone()[0]  # type: ignore[no-any-return]

    async def main():
        assert await run(work) == "usable"

    run_on_each(main)
    assert_idle_on_server(primary, app)
    assert_quiet(pool)


def test_a_timeout_of_the_caller_is_one_at_the_release_too(pool, primary, app, run_on_each):
    """In the middle of the rollback of a release: no slot is lost, and the session is clean."""

    def leave_open(entered: asyncio.Event) -> None:
        lease = pool.acquire()
        lease.connection.execute("SELECT set_config('poolkit.remains', 'here', false)")
        entered.set()
        lease.release()

    async def main():
        for number in range(60):
            entered = asyncio.Event()
            task = asyncio.ensure_future(run(leave_open, entered))
            await entered.wait()  # and on to the release, which the task waits in
            for _ in range(number % 4):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])

    run_on_each(main)
    stats = pool.stats()
    assert (stats.used, stats.idle) == (0, 1)
    assert not stats.closed
    assert stats.resets == 60
    with pool.lease() as connection:
        assert connection.pgconn.transaction_status == TransactionStatus.IDLE
        assert not connection.autocommit
        found = connection.execute("SELECT current_setting('poolkit.remains', true)").fetchone()
        assert found in [("",), (None,)]
    assert_quiet(pool)


def test_the_callbacks_of_a_release_block_no_loop(make_pool, run_on_each):
    go, threads = threading.Event(), []

    def reset(connection: Any) -> None:
        threads.append(threading.current_thread())
        assert go.wait(10.0)
        connection.execute("SELECT 1")
        connection.rollback()

    pool = make_pool(max_size=1, reset=reset)

    async def main():
        task = asyncio.ensure_future(run(one, pool))
        await until(lambda: bool(threads))
        go.set()
        await task

    run_on_each(main)
    assert threads[0] is not threading.main_thread()
    assert_quiet(pool)


def test_a_thousand_cancellations_lose_nothing(make_pool, primary, app, run_on_each):
    pool = make_pool(max_size=4, kwargs={"application_name": app})
    chance = random.Random(11)

    def work() -> None:
        lease = pool.acquire()
        try:
            connection = lease.connection
            connection.autocommit = chance.random() < 0.5
            connection.execute("SELECT pg_sleep(0.002)")
            if not connection.autocommit and chance.random() < 0.5:
                connection.commit()
        finally:
            lease.release()

    async def fleeting() -> bool:
        task = asyncio.ensure_future(run(work))
        await asyncio.sleep(chance.random() * 0.05)
        task.cancel()
        if chance.random() < 0.3:
            await asyncio.sleep(chance.random() * 0.004)
            task.cancel()
        await asyncio.wait([task])
        return task.cancelled()

    async def main() -> int:
        count = 0
        for _ in range(50):
            count += sum(await asyncio.gather(*(fleeting() for _ in range(20))))
        for _ in range(200):
            assert await run(by_itself, pool, "SELECT 5") == 5
        return count

    assert run_on_each(main) > 100
    assert_idle_on_server(primary, app)
    assert_quiet(pool)


def test_a_server_that_dies_is_told_to_the_call_and_to_nobody_else(pool, primary, app, run_on_each):
    async def main():
        task = asyncio.ensure_future(run(one, pool, SLEEP))
        await until_runs(primary, app)
        await asyncio.to_thread(primary.kill_backends, app)
        with pytest.raises(psycopg.OperationalError):
            await task
        assert await run(one, pool) == 1

    run_on_each(main)
    assert_quiet(pool)


def test_a_call_that_is_killed_from_outside_is_told(pool, primary, app, run_on_each):
    """Its connection is closed under it, and its number is nobody else's before it has gone."""

    async def main():
        held: list[Any] = []

        def work() -> None:
            lease = pool.acquire()
            held.append(lease)
            lease.connection.execute(SLEEP)

        task = asyncio.ensure_future(run(work))
        await until_runs(primary, app)
        (lease,) = held
        raw = lease.held
        await asyncio.to_thread(pool.discard, lease)
        with pytest.raises(psycopg.Error):
            await task
        assert raw.closed
        assert await run(one, pool) == 1

    run_on_each(main)
    assert_quiet(pool)

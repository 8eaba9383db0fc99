"""Cancellation of a task at each await point: no slot lost, nothing left running, nothing crosses.

Also what is like it: loops that are closed, servers that die, connections that are shared.
"""

from __future__ import annotations

import asyncio
import gc
import random
import threading
from contextlib import AsyncExitStack, suppress
from typing import Any

import psycopg
import pytest

from django_poolkit.pools.postgres import late, task_wait
from django_poolkit.pools.postgres.errors import LeaseReleased
from django_poolkit.pools.postgres.steadfast import in_thread, steadfast
from tests.pools.postgres.tasks import (
    LOOPS,
    SLEEP,
    assert_idle_on_server,
    assert_quiet,
    cancelled,
    run_on,
    run_on_each,
    running,
    slow_to_commit,
    until,
    until_runs,
)
from tests.pools.support import PATIENCE

__all__ = ["run_on_each"]


@pytest.fixture
def pool(make_pool, app):
    """A pool whose statements can be seen on the server."""
    return make_pool(max_size=2, kwargs={"application_name": app})


class TestStatements:
    def test_a_statement_is_cancelled_on_the_server(self, pool, primary, app, run_on_each):
        async def work() -> None:
            async with pool.alease() as connection:
                await connection.execute(SLEEP)

        async def main():
            task = asyncio.ensure_future(work())
            await until_runs(primary, app)
            await cancelled(task)
            assert running(primary, app) == []

        run_on_each(main)
        assert pool.stats().connects == 1
        assert_quiet(pool)

    def test_a_second_cancellation_changes_nothing(self, pool, primary, app, run_on_each):
        async def work() -> None:
            async with pool.alease() as connection:
                await connection.execute(SLEEP)

        async def main():
            task = asyncio.ensure_future(work())
            await until_runs(primary, app)
            task.cancel()
            for _ in range(20):
                await asyncio.sleep(0)
                task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert_idle_on_server(primary, app)

        run_on_each(main)
        assert not pool.stats().closed  # it was cleared away to the end
        assert_quiet(pool)

    def test_a_timeout_inside_leaves_the_connection_usable(self, pool, primary, app, run_on_each):
        async def main():
            async with pool.alease() as connection:
                await connection.set_autocommit(True)
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.2):
                        await connection.execute(SLEEP)
                row = await (await connection.execute("SELECT 7")).fetchone()
                assert row == (7,)

        run_on_each(main)
        assert_idle_on_server(primary, app)
        assert_quiet(pool)

    def test_a_commit_is_let_end(self, pool, primary, app, run_on_each):
        async def work() -> None:
            async with pool.alease() as connection:
                await connection.execute("INSERT INTO kept VALUES (1)")

        async def main():
            task = asyncio.ensure_future(work())
            await until_runs(primary, app, "COMMIT")
            await cancelled(task)

        with slow_to_commit(primary, "kept"):
            run_on_each(main)
            assert primary.execute("SELECT count(*) FROM kept")[0][0] == 1
        assert pool.stats().connects == 1
        assert_quiet(pool)

    def test_a_server_that_says_nothing_is_given_up(
        self, far_pool, proxy, primary, app, run_on_each
    ):
        pool = far_pool(max_size=1, kwargs={"application_name": app})

        async def work() -> None:
            async with pool.alease() as connection:
                await connection.execute(SLEEP)

        async def main():
            task = asyncio.ensure_future(work())
            await until_runs(primary, app)
            await asyncio.to_thread(proxy.stall)
            started = asyncio.get_running_loop().time()
            await cancelled(task)
            return asyncio.get_running_loop().time() - started

        assert run_on_each(main) < 3 * 4 * late.GRACE
        proxy.resume()
        assert_quiet(pool)

    @pytest.mark.parametrize("block", ["transaction", "savepoint", "lease"])
    def test_a_rollback_that_is_never_answered_is_given_up(
        self, far_pool, proxy, monkeypatch, run_on_each, block
    ):
        monkeypatch.setattr(late, "GRACE", 0.1)
        monkeypatch.setattr(task_wait, "_ENDING", 0.1)
        pool = far_pool(max_size=1, kwargs={"autocommit": block != "lease"})

        async def work(begun: asyncio.Event) -> None:
            async with pool.alease() as connection, AsyncExitStack() as blocks:
                for _ in range(["lease", "transaction", "savepoint"].index(block)):
                    await blocks.enter_async_context(connection.transaction())
                await connection.execute("SELECT 1")
                begun.set()
                await asyncio.Event().wait()  # for something else than the server

        async def main():
            begun = asyncio.Event()
            task = asyncio.ensure_future(work(begun))
            await begun.wait()
            await asyncio.to_thread(proxy.stall)
            task.cancel()
            await asyncio.wait([task], timeout=PATIENCE)
            assert task.cancelled()

        run_on_each(main)
        proxy.resume()
        assert_quiet(pool)

    def test_a_block_that_cannot_be_rolled_back_takes_in_nothing_else(
        self, make_pool, primary, app, monkeypatch, run_on_each
    ):
        monkeypatch.setattr(late, "GRACE", 0.1)
        pool = make_pool(max_size=1, kwargs={"application_name": app, "autocommit": True})

        async def main():
            lease = await pool.aacquire()
            connection, others = lease.connection, []

            async def work() -> None:
                async with connection.transaction():
                    others.append(asyncio.ensure_future(connection.execute(SLEEP)))
                    await asyncio.Event().wait()

            task = asyncio.ensure_future(work())
            await until_runs(primary, app)
            await cancelled(task)  # while another has the connection, and keeps it
            with pytest.raises(psycopg.OperationalError):
                await asyncio.wait_for(others[0], PATIENCE)
            with pytest.raises(psycopg.OperationalError):
                await connection.execute("SELECT 1")  # which would be undone without a word
            await lease.release()

        run_on_each(main)
        assert_quiet(pool)


class TestReleases:
    def test_a_rollback_on_the_way_home_is_awaited(self, pool, primary, app, run_on_each):
        async def main():
            lease = await pool.aacquire()
            await lease.connection.execute("SELECT 1")
            entered, go = threading.Event(), threading.Event()
            clean = pool._clean

            def slowly(*args: Any, **kwargs: Any) -> Any:
                entered.set()
                assert go.wait(10.0)
                return clean(*args, **kwargs)

            pool._clean = slowly
            task = asyncio.ensure_future(lease.release())
            await asyncio.to_thread(entered.wait, 10.0)
            for _ in range(5):
                task.cancel()
                await asyncio.sleep(0)
            assert not task.done()
            go.set()
            with pytest.raises(asyncio.CancelledError):
                await task
            del pool._clean

        run_on_each(main)
        assert pool.stats().idle == 1
        assert_idle_on_server(primary, app)
        assert_quiet(pool)

    def test_the_loop_goes_on_while_a_user_callback_blocks(self, make_pool, run_on_each):
        go, threads = threading.Event(), []

        def reset(connection: Any) -> None:
            threads.append(threading.current_thread())
            assert go.wait(10.0)

        pool = make_pool(max_size=1, reset=reset)

        async def main():
            lease = await pool.aacquire()
            task = asyncio.ensure_future(lease.release())
            await until(lambda: bool(threads))
            go.set()
            await task

        run_on_each(main)
        assert threads[0] is not threading.main_thread()
        assert_quiet(pool)

    def test_a_stream_that_is_left_half_way_is_not_left_running(
        self, pool, primary, app, run_on_each
    ):
        async def main():
            async with pool.alease() as connection:
                await connection.set_autocommit(True)
                rows = connection.cursor().stream("SELECT generate_series(1, 99999999)")
                await anext(rows)
            with suppress(LeaseReleased):
                await rows.aclose()

        run_on_each(main)
        assert_idle_on_server(primary, app)
        assert_quiet(pool)

    def test_a_transaction_under_a_stream_that_is_left_is_not_lost_in_silence(
        self, pool, primary, app, run_on_each
    ):
        async def main():
            with pytest.raises(psycopg.OperationalError, match="could not be committed"):
                async with pool.alease() as connection:
                    rows = connection.cursor().stream("SELECT generate_series(1, 999999)")
                    await anext(rows)
            with suppress(LeaseReleased):
                await rows.aclose()

        run_on_each(main)
        assert_idle_on_server(primary, app)
        assert_quiet(pool)

    def test_an_abandoned_generator_gives_its_connection_back(
        self, pool, primary, app, run_on_each
    ):
        async def rows() -> Any:
            async with pool.alease() as connection, connection.cursor("rows") as cursor:
                await cursor.execute("SELECT generate_series(1, 1000)")
                async for row in cursor:
                    yield row

        async def main():
            found = rows()
            assert await anext(found) == (1,)
            await found.aclose()
            await until(lambda: pool.stats().used == 0)

        run_on_each(main)
        assert_idle_on_server(primary, app)
        assert_quiet(pool)

    @pytest.mark.parametrize("what", [SLEEP, "notifies"])
    def test_a_child_that_shares_the_connection_is_cut_off(
        self, pool, primary, app, run_on_each, what
    ):
        async def child(connection: Any) -> None:
            if what == SLEEP:
                await connection.execute(SLEEP)
            else:
                async for _ in connection.notifies():
                    pass

        async def main():
            lease = await pool.aacquire()
            await lease.connection.set_autocommit(True)
            task = asyncio.ensure_future(child(lease.connection))
            if what == SLEEP:
                await until_runs(primary, app)
            else:
                await until(lambda: lease.held._waited_on == 1)
            raw = lease.held
            await lease.release()
            if what != SLEEP:  # its loop still looks at the socket, so that must not be another's
                assert not raw.closed
            with pytest.raises(psycopg.Error):
                await task
            assert raw.closed
            async with pool.alease() as connection:  # a new socket: nobody looks at its number
                await connection.execute("SELECT 1")

        run_on_each(main)
        assert_idle_on_server(primary, app)
        assert_quiet(pool)


class TestLoops:
    @pytest.mark.parametrize("kind", LOOPS)
    @pytest.mark.parametrize("kept", [True, False])
    def test_a_closed_loop_loses_no_slot(self, make_pool, primary, app, kind, kept, recwarn):
        pool = make_pool(max_size=3, kwargs={"application_name": app})
        tasks: list[Any] = []

        async def work() -> None:
            async with pool.alease() as connection:
                await connection.execute(SLEEP)

        async def begin() -> None:
            tasks.extend(asyncio.ensure_future(work()) for _ in range(4))
            await until_runs(primary, app, count=3)
            await until(lambda: pool.stats().waiters == 1)

        loop = LOOPS[kind]()
        loop.set_exception_handler(lambda loop, context: None)
        loop.run_until_complete(begin())
        loop.close()
        if not kept:
            tasks.clear()
            gc.collect()

        async def main() -> None:
            async with asyncio.timeout(20.0):
                leases = [await pool.aacquire(15.0) for _ in range(3)]
            for lease in leases:
                await lease.connection.execute("SELECT 1")
                await lease.connection.rollback()
                await lease.release()

        run_on(kind, main)
        assert_idle_on_server(primary, app)
        for task in tasks:
            task._log_destroy_pending = False
        tasks.clear()
        gc.collect()
        assert_quiet(pool)

    def test_a_runner_that_ends_cancels_what_runs(self, pool, primary, app, run_on_each):
        async def work() -> None:
            async with pool.alease() as connection:
                await connection.execute(SLEEP)

        async def main():
            tasks.extend(asyncio.ensure_future(work()) for _ in range(3))
            await until_runs(primary, app, count=2)

        tasks: list[Any] = []
        run_on_each(main)
        assert all(task.cancelled() for task in tasks)
        assert running(primary, app) == []
        assert_quiet(pool)


class TestSteadfast:
    def test_it_returns_and_raises(self):
        async def ends() -> int:
            await asyncio.sleep(0)
            await asyncio.sleep(0.001)
            return 7

        async def fails() -> None:
            await asyncio.sleep(0.001)
            raise KeyError

        async def main():
            assert await steadfast(ends()) == 7
            with pytest.raises(KeyError):
                await steadfast(fails())
            assert await steadfast(in_thread("some", lambda: 8)) == 8
            with pytest.raises(KeyError):
                await steadfast(in_thread("some", {}.pop, "none"))

        asyncio.run(main())

    @pytest.mark.parametrize("error", [None, KeyError])
    def test_a_cancellation_comes_when_it_has_ended(self, run_on_each, error):
        ended = []

        async def steps(go: asyncio.Event) -> None:
            await go.wait()
            await asyncio.sleep(0)
            ended.append(True)
            if error:
                raise error

        async def main():
            go = asyncio.Event()
            task = asyncio.ensure_future(steadfast(steps(go)))
            for _ in range(3):
                await asyncio.sleep(0)
                task.cancel()
            await asyncio.sleep(0)
            assert not task.done()
            go.set()
            with pytest.raises(asyncio.CancelledError):
                await task

        run_on_each(main)
        assert ended

    def test_no_thread_to_be_had_it_is_called_here(self, monkeypatch):
        def refuse(self: Any) -> None:
            raise RuntimeError("can't start new thread")

        async def main():
            monkeypatch.setattr(threading.Thread, "start", refuse)
            try:
                return await in_thread("some", threading.get_ident)
            finally:
                monkeypatch.undo()

        assert asyncio.run(main()) == threading.get_ident()


def test_a_server_that_dies_is_told_to_the_task_and_to_nobody_else(pool, primary, app, run_on_each):
    async def work() -> None:
        async with pool.alease() as connection:
            await connection.execute(SLEEP)

    async def main():
        task = asyncio.ensure_future(work())
        await until_runs(primary, app)
        await asyncio.to_thread(primary.kill_backends, app)
        with pytest.raises(psycopg.OperationalError):
            await task
        async with pool.alease() as connection:
            await connection.execute("SELECT 1")

    run_on_each(main)
    assert_quiet(pool)


@pytest.mark.parametrize("kind", LOOPS)
@pytest.mark.parametrize("rounds", [1000 // len(LOOPS)])
def test_random_cancellations_under_load(make_pool, primary, app, kind, rounds):
    """Some wait, some read, some hold; each is asked whether what it reads is its own."""
    pool = make_pool(max_size=4, kwargs={"application_name": app})
    dice = random.Random(kind)
    seen: list[int] = []

    async def work(number: int) -> None:
        async with pool.alease() as connection:
            for step in range(3):
                mark = number * 10 + step
                cursor = await connection.execute(f"SELECT {mark}, pg_sleep({dice.random() / 200})")
                assert (await cursor.fetchone())[0] == mark
            if number % 3 == 0:
                async with connection.transaction():
                    await connection.execute("SELECT set_config('x.y', %s, true)", [str(number)])
        seen.append(number)

    async def main():
        tasks = [asyncio.ensure_future(work(number)) for number in range(rounds)]
        while pending := [task for task in tasks if not task.done()]:
            for task in dice.sample(pending, min(3, len(pending))):
                task.cancel()
                if dice.random() < 0.3:
                    await asyncio.sleep(0)
                    task.cancel()
            await asyncio.sleep(dice.random() / 100)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        wrong = [each for each in results if not isinstance(each, asyncio.CancelledError | None)]
        assert wrong == []
        assert sum(each is not None for each in results) > rounds // 4
        # And after it each connection is as new.
        async with asyncio.TaskGroup() as group:
            for number in range(100):
                group.create_task(work(-number))

    run_on(kind, main)
    assert_idle_on_server(primary, app)
    assert_quiet(pool)

"""What a task gets: psycopg's AsyncConnection, around the connection that threads have, too."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from django_poolkit.pools.deadline import deadline
from django_poolkit.pools.postgres.connection import PoolConnection
from django_poolkit.pools.postgres.errors import DeadlineExceeded, LeaseReleased, StalePlan
from tests.pools.postgres.tasks import assert_quiet, run_on_each, until_runs
from tests.pools.support import Upper

__all__ = ["run_on_each"]


async def value(connection: Any, statement: str = "SELECT pg_backend_pid()") -> Any:
    """Return the one value that a statement gives."""
    row = await (await connection.execute(statement)).fetchone()
    return row[0]


class TestVerbs:
    def test_a_block_yields_a_connection_and_commits(self, make_pool, run_on_each):
        pool = make_pool(max_size=1)

        async def main():
            async with pool.alease() as connection:
                assert isinstance(connection, psycopg.AsyncConnection)
                await connection.execute("CREATE TABLE kept (id int)")
            async with pool.alease() as connection:
                assert await value(connection, "SELECT count(*) FROM kept") == 0
                await connection.execute("DROP TABLE kept")

        run_on_each(main)
        assert pool.stats().connects == 1
        assert_quiet(pool)

    def test_an_exception_rolls_back(self, make_pool, run_on_each):
        pool = make_pool(max_size=1)

        async def main():
            with pytest.raises(KeyError):
                async with pool.alease() as connection:
                    await connection.execute("CREATE TABLE gone (id int)")
                    raise KeyError
            async with pool.alease() as connection:
                assert await value(connection, "SELECT to_regclass('gone')") is None

        run_on_each(main)
        assert pool.stats().connects == 1
        assert_quiet(pool)

    def test_awaited_it_gives_the_lease(self, make_pool, run_on_each):
        pool = make_pool(max_size=1)

        async def main():
            lease = await pool.alease(timeout=5.0)
            pid = await value(lease.connection)
            assert lease.connection is lease.connection
            await lease.release()
            assert lease.connection is None
            with pytest.raises(LeaseReleased):
                await lease.release()
            async with await pool.aacquire() as connection:
                assert await value(connection) == pid
            lease = await pool.alease(timeout=5.0)
            with pytest.raises(TypeError, match="async with"), lease:
                pass
            await lease.discard()

        run_on_each(main)
        assert pool.stats().closed["discarded"] == 1
        assert_quiet(pool)

    def test_it_is_shown_with_its_task(self, make_pool, run_on_each):
        pool = make_pool(max_size=1)

        async def main():
            task = asyncio.current_task()
            assert task is not None
            task.set_name("reader")
            async with pool.alease():
                return pool.leases()[0]

        found = run_on_each(main)
        assert found.thread.endswith("(reader)")
        assert any("test_task_connection" in line for line in found.stack)


class TestState:
    def test_a_connection_goes_from_tasks_to_threads_and_back(self, make_pool, run_on_each):
        pool = make_pool(max_size=1)
        pids = []

        async def main():
            async with pool.alease() as connection:
                pids.append(await value(connection))

        for _ in range(2):
            run_on_each(main)
            with pool.lease() as connection:
                assert isinstance(connection, PoolConnection)
                pids.append(connection.info.backend_pid)
        assert len(set(pids)) == 1
        assert_quiet(pool)

    def test_prepared_statements_are_there_once(self, make_pool, run_on_each):
        pool = make_pool(max_size=1, prepare=True)
        count = "SELECT count(*) FROM pg_prepared_statements"

        def by_thread():
            with pool.lease() as connection:
                connection.execute("SELECT 41 + %s", [1], prepare=True)

        async def main():
            async with pool.alease() as connection:
                await connection.execute("SELECT 41 + %s", [1], prepare=True)
                return await value(connection, count)

        by_thread()
        assert run_on_each(main) == 1
        by_thread()
        assert run_on_each(main) == 1

    def test_what_was_altered_behind_a_prepared_statement_is_healed(
        self, make_pool, run_on_each, primary, params
    ):
        pool = make_pool(max_size=1, prepare=True)

        async def main():
            async with pool.alease() as connection:
                await connection.set_autocommit(True)
                await connection.execute("CREATE TABLE grows (id int)")
                await connection.execute("SELECT * FROM grows", prepare=True)
                with psycopg.connect(**params, autocommit=True) as other:
                    other.execute("ALTER TABLE grows ADD name text")
                cursor = await connection.execute("SELECT * FROM grows")
                assert len(cursor.description) == 2
                await connection.execute("DROP TABLE grows")

        run_on_each(main)
        assert pool.plans.healed == 1

    def test_many_at_once_are_run_again_if_they_still_can_be(self, make_pool, run_on_each, params):
        pool = make_pool(max_size=1, prepare=True)
        text = "INSERT INTO many (id) VALUES (%s) RETURNING *"

        async def main():
            async with pool.alease() as connection, connection.cursor() as cursor:
                await connection.set_autocommit(True)
                await cursor.execute("CREATE TABLE many (id int)")
                for _ in range(6):
                    await cursor.executemany(text, [(1,), (2,)], returning=True)
                with psycopg.connect(**params, autocommit=True) as other:
                    other.execute("ALTER TABLE many ADD name text")
                    await cursor.executemany(text, [(3,), (4,)], returning=True)
                    assert len(cursor.description) == 2
                    for _ in range(6):
                        await cursor.executemany(text, [(5,)], returning=True)
                    other.execute("ALTER TABLE many ADD more text")
                with pytest.raises(StalePlan):
                    await cursor.executemany(text, iter([(6,)]), returning=True)
                found = await value(
                    connection, "SELECT array_agg(DISTINCT id ORDER BY id) FROM many"
                )
                await connection.execute("DROP TABLE many")
                return found

        assert sorted(run_on_each(main)) == [1, 2, 3, 4, 5]
        assert pool.plans.healed == 1

    def test_attributes_are_those_of_the_pool_again_at_the_next_lease(self, make_pool, run_on_each):
        pool = make_pool(max_size=1)

        async def main():
            async with pool.alease() as connection:
                await connection.set_autocommit(True)
                connection.row_factory = dict_row
                connection.adapters.register_loader("text", Upper)
                row = await (await connection.execute("SELECT 'a'::text AS a")).fetchone()
                assert row == {"a": "A"}

        run_on_each(main)
        with pool.lease() as connection:
            assert not connection.autocommit
            assert connection.execute("SELECT 'a'::text").fetchone() == ("a",)
            assert connection.adapters.get_loader(25, psycopg.pq.Format.TEXT) is not Upper

    def test_session_state_is_reset(self, make_pool, run_on_each):
        pool = make_pool(max_size=1)

        async def main():
            async with pool.alease() as connection:
                await connection.execute("SET work_mem = '77MB'")
            async with pool.alease() as connection:
                return await value(connection, "SHOW work_mem")

        assert run_on_each(main) != "77MB"
        assert pool.stats().resets == 1
        assert_quiet(pool)

    @pytest.mark.parametrize(
        ("ours", "theirs"),
        [
            (psycopg.Cursor, psycopg.AsyncCursor),
            (psycopg.ClientCursor, psycopg.AsyncClientCursor),
            (psycopg.RawCursor, psycopg.AsyncRawCursor),
        ],
    )
    def test_cursors_bind_as_those_of_threads(self, make_pool, run_on_each, ours, theirs):
        pool = make_pool(max_size=1, kwargs={"cursor_factory": ours})

        async def main():
            async with pool.alease() as connection:
                cursor = connection.cursor()
                assert isinstance(cursor, theirs)
                mark = "$1" if ours is psycopg.RawCursor else "%s"
                await cursor.execute(f"SELECT {mark}::int", [7])
                return await cursor.fetchone()

        assert run_on_each(main) == (7,)

    def test_notices_reach_the_handlers_of_the_task(self, make_pool, run_on_each):
        pool = make_pool(max_size=1)
        heard = []

        async def main():
            async with pool.alease() as connection:
                connection.add_notice_handler(lambda notice: heard.append(notice.message_primary))
                await connection.execute("DO $$ BEGIN RAISE NOTICE 'hello'; END $$")

        run_on_each(main)
        assert heard == ["hello"]


class TestFeatures:
    def test_transactions_pipelines_copies_and_named_cursors(self, make_pool, run_on_each):
        pool = make_pool(max_size=1)

        async def main():
            async with pool.alease() as connection:
                async with connection.transaction(), connection.cursor() as cursor:
                    await cursor.execute("CREATE TEMP TABLE t (id int)")
                    async with cursor.copy("COPY t FROM STDIN") as copy:
                        for number in range(100):
                            await copy.write_row([number])
                    await cursor.executemany("INSERT INTO t VALUES (%s)", [(1,), (2,)])
                async with connection.pipeline():
                    one = await connection.execute("SELECT 1")
                    two = await connection.execute("SELECT 2")
                    assert (await one.fetchone(), await two.fetchone()) == ((1,), (2,))
                async with connection.cursor("named") as cursor:
                    await cursor.execute("SELECT id FROM t ORDER BY id")
                    assert len(await cursor.fetchmany(10)) == 10
                assert [row async for row in connection.cursor().stream("SELECT 5")] == [(5,)]
                return await value(connection, "SELECT count(*) FROM t")

        assert run_on_each(main) == 102
        assert pool.stats().connects == 1
        assert_quiet(pool)

    def test_a_named_cursor_may_be_closed_after_the_release(self, make_pool, run_on_each):
        pool = make_pool(max_size=1)

        async def main():
            async with pool.alease() as connection:
                cursor = connection.cursor("named", withhold=True)
                await cursor.execute("SELECT 1")
            await cursor.close()
            async with pool.alease() as connection:
                return await value(connection, "SELECT count(*) FROM pg_cursors")

        assert run_on_each(main) == 0

    def test_notifications(self, make_pool, run_on_each):
        pool = make_pool(max_size=1)

        async def main():
            async with pool.alease() as connection:
                await connection.set_autocommit(True)
                await connection.execute("LISTEN news")
                await connection.execute("NOTIFY news, 'one'")
                return [n.payload async for n in connection.notifies(timeout=5.0, stop_after=1)]

        assert run_on_each(main) == ["one"]

    def test_a_task_may_cancel_what_another_runs(self, make_pool, run_on_each, primary, app):
        pool = make_pool(max_size=1, kwargs={"application_name": app})

        async def main():
            async with pool.alease() as connection:
                work = asyncio.ensure_future(connection.execute("SELECT pg_sleep(60)"))
                await until_runs(primary, app)
                await connection.cancel_safe()
                with pytest.raises(psycopg.errors.QueryCanceled):
                    await work
                await connection.rollback()

        run_on_each(main)
        assert_quiet(pool)


USES: dict[str, Any] = {
    "execute": lambda c: c.execute("SELECT 1"),
    "commit": lambda c: c.commit(),
    "rollback": lambda c: c.rollback(),
    "cancel_safe": lambda c: c.cancel_safe(),
    "close": lambda c: c.close(),
    "set_autocommit": lambda c: c.set_autocommit(True),
}


class TestAfterTheRelease:
    @pytest.mark.parametrize("use", USES)
    def test_each_use_is_refused(self, make_pool, run_on_each, use):
        pool = make_pool(max_size=1)

        async def main():
            async with pool.alease() as connection:
                await connection.execute("SELECT 1")
            async with pool.alease() as others:
                pid = await value(others)
                with pytest.raises(LeaseReleased):
                    await USES[use](connection)
                for verb in (connection.cursor, connection.transaction, connection.pipeline):
                    with pytest.raises(LeaseReleased):
                        verb()
                with pytest.raises(LeaseReleased):
                    connection.cancel()
                assert await value(others) == pid

        run_on_each(main)
        assert pool.stats().connects == 1

    def test_a_cursor_is_refused(self, make_pool, run_on_each):
        pool = make_pool(max_size=1)

        async def main():
            async with pool.alease() as connection:
                cursor = await connection.execute("SELECT 1")
                stream = connection.cursor().stream("SELECT generate_series(1, 3)")
            for call in (
                lambda: cursor.execute("SELECT 2"),
                cursor.fetchone,
                lambda: cursor.executemany("SELECT %s", [(1,)]),
                stream.__anext__,
            ):
                with pytest.raises(LeaseReleased):
                    await call()

        run_on_each(main)
        assert_quiet(pool)

    def test_one_whose_lease_was_dropped_is_refused(self, make_pool, run_on_each):
        pool = make_pool(max_size=1)

        async def main():
            async with pool.alease():
                pass  # so that the next is idle: no worker hands it over, and looks at it yet
            connection = (await pool.alease()).connection
            with pytest.raises(LeaseReleased, match="has been dropped"):
                connection.cursor()

        run_on_each(main)
        with pytest.warns(match="dropped without being released"):
            pool._adopt_orphans()
        assert_quiet(pool)


class TestDeadlines:
    def test_a_statement_is_cancelled_and_the_connection_lives(self, make_pool, run_on_each):
        pool = make_pool(max_size=1)

        async def main():
            with deadline(0.2), pytest.raises(DeadlineExceeded, match="it was cancelled"):
                async with pool.alease() as connection:
                    await connection.execute("SELECT pg_sleep(60)")
            async with pool.alease() as connection:
                await connection.execute("SELECT 1")

        run_on_each(main)
        assert pool.stats().connects == 1
        assert_quiet(pool)

    def test_nothing_begins_after_it(self, make_pool, run_on_each):
        pool = make_pool(max_size=1)

        async def main():
            async with pool.alease() as connection:
                with deadline(0.01):
                    await asyncio.sleep(0.02)
                    with pytest.raises(DeadlineExceeded, match=r"before a statement \(SELECT\)"):
                        await connection.execute("SELECT 1")
                assert await value(connection, "SELECT 2") == 2

        run_on_each(main)
        assert_quiet(pool)

"""What a lease leaves behind does not reach the next, and what leaves nothing costs nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from django_poolkit.pools.session_state import CACHE_SIZE, CACHED_LENGTH
from tests.pools.asyncpg.support import MakePool, Run, assert_quiet, pid, until

STATE = {
    "SET search_path TO nowhere": ("SHOW search_path", '"$user", public'),
    "SELECT set_config('work_mem', '1MB', false)": ("SHOW work_mem", "4MB"),
    "CREATE TEMP TABLE residue (a int)": ("SELECT to_regclass('pg_temp.residue')::text", None),
    "SELECT pg_advisory_lock(4711)": (
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()", 0),
    "LISTEN something": ("SELECT count(*) FROM pg_listening_channels()", 0),
    "SET ROLE pg_read_all_data": ("SELECT current_user = session_user", True),
    "BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT 1; COMMIT": (
        "SELECT count(*) FROM pg_cursors WHERE is_holdable", 0),
}  # fmt: skip


@pytest.mark.parametrize("statement", STATE)
def test_session_state_does_not_reach_the_next_lease(
    make: MakePool, run: Run, statement: str
) -> None:
    async def main() -> None:
        pool = make(max_size=1)
        async with pool.lease() as connection:
            await connection.execute(statement)
            first = connection.get_server_pid()
        async with pool.lease() as connection:
            look, expected = STATE[statement]
            assert await connection.fetchval(look) == expected
            assert connection.get_server_pid() == first
        assert pool.stats().resets == 1
        assert_quiet(pool)

    run(main())


@pytest.mark.parametrize("verb", ["fetch", "fetchval", "fetchrow", "prepare", "cursor"])
def test_each_verb_is_looked_at(make: MakePool, run: Run, verb: str) -> None:
    async def main() -> None:
        pool = make(max_size=1)
        text = "SELECT set_config('work_mem', '1MB', false)"
        async with pool.lease() as connection, connection.transaction():
            if verb == "prepare":
                await (await connection.prepare(text)).fetch()
            elif verb == "cursor":
                assert [row async for row in connection.cursor(text)]
            else:
                await getattr(connection, verb)(text)
        async with pool.lease() as connection:
            assert await connection.fetchval("SHOW work_mem") == "4MB"
        assert pool.stats().resets == 1

    run(main())


def test_plain_statements_cost_no_reset_unless_it_is_asked_for(make: MakePool, run: Run) -> None:
    async def main() -> None:
        for policy, expected in (("dirty", 0), ("always", 1)):
            pool = make(RESET=policy)
            async with pool.lease() as connection:
                await connection.fetchval("SELECT 1")
                async with connection.transaction():
                    await connection.execute("SET LOCAL work_mem TO '1MB'")
                counted = connection._protocol.queries_count
            async with pool.lease() as connection:
                assert connection._protocol.queries_count == counted + expected
            assert pool.stats().resets == expected

    run(main())


def test_what_nothing_undoes_costs_the_connection(make: MakePool, run: Run) -> None:
    async def main() -> None:
        pool = make(max_size=1)
        seen = set()
        async with pool.lease() as connection:
            seen.add(connection.get_server_pid())
            await connection.execute("PREPARE mine AS SELECT 1")
        async with pool.lease() as connection:
            seen.add(connection.get_server_pid())
            await connection.set_type_codec("text", schema="pg_catalog", encoder=str, decoder=len)
            assert await connection.fetchval("SELECT 'four'::text") == 4
        async with pool.lease() as connection:
            seen.add(connection.get_server_pid())
            assert await connection.fetchval("SELECT 'four'::text") == "four"
        assert len(seen) == 3
        assert pool.stats().closed == {"prepared": 1, "codecs": 1}
        assert_quiet(pool)

    run(main())


def test_an_open_transaction_is_rolled_back(make: MakePool, run: Run) -> None:
    async def main() -> None:
        pool = make(max_size=1)
        asyncio.get_running_loop().set_exception_handler(lambda *_: pytest.fail("complains"))
        async with pool.lease() as connection:
            await connection.execute("CREATE TABLE IF NOT EXISTS kept (a int)")
            transaction = connection.transaction()
            await transaction.start()
            await connection.execute("INSERT INTO kept VALUES (1)")
        async with pool.lease() as connection:
            assert not connection.is_in_transaction()
            assert await connection.fetchval("SELECT count(*) FROM kept") == 0
            await connection.execute("DROP TABLE kept")
        assert_quiet(pool)

    run(main())


def test_callbacks_go_with_their_lease(make: MakePool, run: Run) -> None:
    told: list[Any] = []

    def note(*what: Any) -> None:
        told.append(what)

    async def main() -> None:
        pool = make(max_size=1)
        async with pool.lease() as connection:
            await connection.add_listener("channel", note)
            connection.add_log_listener(note)
            connection.add_query_logger(note)
            connection.add_termination_listener(note)
        async with pool.lease() as connection:
            await connection.execute("NOTIFY channel; DO $$ BEGIN RAISE NOTICE 'x'; END $$")
            await connection.fetchval("SELECT 1")
        await pool.close()
        assert told == []

    run(main())


def test_a_lease_released_while_a_task_still_queries_is_cut_off(
    make: MakePool, run_on_each: Run, primary: Any, service: str
) -> None:
    async def main() -> None:
        pool = make(max_size=1)
        lease = await pool.acquire()
        work = asyncio.create_task(lease.connection.execute("SELECT pg_sleep(60)"))
        await until(lambda: lease.running)
        await asyncio.sleep(0)
        await lease.release()
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError)):
            await work
        await until(lambda: not primary.sessions(service))
        assert await pid(pool)
        assert pool.stats().closed == {"active": 1}
        assert_quiet(pool)

    run_on_each(main())


def test_a_prepared_statement_that_still_runs_is_cut_off_as_well(
    make: MakePool, run: Run, primary: Any, service: str
) -> None:
    async def main() -> None:
        pool = make(max_size=1)
        lease = await pool.acquire()
        statement = await lease.connection.prepare("SELECT pg_sleep(60)")
        work = asyncio.create_task(statement.fetch())
        await until(lambda: primary.sessions(service))
        await asyncio.sleep(0)
        await lease.release()
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError)):
            await work
        await until(lambda: not primary.sessions(service), "the statement goes on")
        assert_quiet(pool)

    run(main())


def test_a_statement_that_was_seen_before_is_noted_as_the_first(make: MakePool, run: Run) -> None:
    async def main() -> None:
        pool = make(max_size=1, RESET="always")
        for leases in range(1, 4):
            async with pool.lease() as connection:
                await connection.fetchval("SELECT 1")
                (held,) = pool.leases()
                assert held.statement == "SELECT"
            assert pool.stats().resets == leases
        assert "SELECT 1" in pool.plain
        assert_quiet(pool)

    run(main())


def test_texts_are_remembered_within_bounds(make: MakePool, run: Run) -> None:
    async def main() -> None:
        pool = make(max_size=1)
        lease = await pool.acquire()
        for number in range(CACHE_SIZE + 1):
            lease.note(f"SELECT {number}")
        assert f"SELECT {CACHE_SIZE}" in pool.plain
        assert 0 < len(pool.plain) <= CACHE_SIZE
        lease.note(long := f"SELECT '{'x' * CACHED_LENGTH}'")
        lease.note("SET work_mem TO '1MB'")
        assert long not in pool.plain
        assert "SET work_mem TO '1MB'" not in pool.plain
        await lease.release()
        assert pool.stats().resets == 1

    run(main())

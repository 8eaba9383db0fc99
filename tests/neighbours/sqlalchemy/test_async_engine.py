"""An asyncio engine on the asyncpg pool: a lease is a checkout, also for who is cancelled."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import sqlalchemy
from django.conf import settings
from django.db import connections
from django.test import override_settings
from sqlalchemy import JSON, bindparam, event, exc, select, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession

from django_poolkit import asyncpg_pools, registry
from django_poolkit.contrib.sqlalchemy import create_async_engine
from django_poolkit.pools.stats import PoolStats
from django_poolkit.testing import Node
from django_poolkit.testing.faults import TCPProxy
from tests.neighbours.sqlalchemy.support import Thing, names, stored
from tests.pools.asyncpg.support import until

pytestmark = pytest.mark.django_db(transaction=True)

Act = Callable[[AsyncEngine], Awaitable[Any]]


@pytest.fixture
def options() -> dict[str, Any]:
    """What `POOLKIT["ASYNCPG"]` says of the alias."""
    return {"max_size": 2, "TIMEOUT": 5.0}


@pytest.fixture
def run(options: dict[str, Any]) -> Iterator[Callable[[Act], Any]]:
    """Return a function that runs a coroutine function with an engine, and sees nothing leased."""

    async def main(act: Act) -> Any:
        engine = create_async_engine("default")
        found = await act(engine)
        await engine.dispose()
        assert (stats().used, stats().waiters, stats().leaks) == (0, 0, 0)
        return found

    with override_settings(POOLKIT={**settings.POOLKIT, "ASYNCPG": {"default": options}}):
        yield lambda act: asyncio.run(main(act))
    registry.asyncpg.close_all()


def stats() -> PoolStats:
    return asyncpg_pools["default"].stats()


async def pid_of(held: AsyncConnection) -> int:
    raw = await held.get_raw_connection()
    driver: Any = raw.driver_connection
    pid: int = driver.get_server_pid()
    return pid


def test_a_lease_lasts_as_long_as_a_checkout(run) -> None:
    async def act(engine: AsyncEngine) -> None:
        async with engine.connect() as held:
            await held.execute(select(1))
            (lease,) = asyncpg_pools["default"].leases()
            assert (lease.where, lease.status, stats().used) == ("sqlalchemy", "intrans", 1)
            pid = await pid_of(held)
        assert (stats().used, stats().idle) == (0, 1)
        async with asyncpg_pools["default"].lease() as leased:
            assert leased.get_server_pid() == pid

    run(act)


def test_sessions_commit_and_errors_leave_nothing(run) -> None:
    async def act(engine: AsyncEngine) -> None:
        async with AsyncSession(engine) as session:
            session.add(Thing(name="a"))
            await session.commit()
            assert stats().used == 0
            session.add(Thing(name="lost"))
            await session.flush()
        with pytest.raises(exc.IntegrityError):
            async with engine.begin() as held:
                await held.execute(sqlalchemy.insert(Thing).values(name="lost"))
                await held.execute(sqlalchemy.insert(Thing).values(name=None))
        async with engine.connect() as held:
            streamed = await held.stream(names)
            assert [name async for name in streamed.scalars()] == ["a"]

    run(act)
    assert stored() == ["a"]


def test_values_are_those_of_the_pools_codecs(run) -> None:
    async def act(engine: AsyncEngine) -> None:
        async with engine.connect() as held:
            for kind in (JSON, JSONB):
                for value in ({"b": [1, None]}, "text", None, 7):
                    sent = select(bindparam("a", value, kind))
                    assert await held.scalar(sent) == value
            null = select(bindparam("a", JSON.NULL, JSON).is_(None))
            assert await held.scalar(null) is False
            assert await held.scalar(text("SELECT '{\"b\": 1}'::jsonb")) == {"b": 1}
        async with asyncpg_pools["default"].lease() as leased:
            assert await leased.fetchval("SELECT $1::jsonb", {"b": 1}) == {"b": 1}
        assert stats().closed == {}  # no codec has cost a connection

    run(act)


@pytest.mark.parametrize("options", [{"CODECS": "asyncpg"}])
def test_a_deserializer_of_ones_own_wants_codecs_that_leave_it_text(run) -> None:
    async def act(_: AsyncEngine) -> None:
        engine = create_async_engine(json_deserializer=lambda found: ("mine", found))
        async with engine.connect() as held:
            sent = select(bindparam("a", {"b": 1}, JSON))
            assert await held.scalar(sent) == ("mine", '{"b": 1}')

    run(act)
    with (
        override_settings(POOLKIT={**settings.POOLKIT, "ASYNCPG": {}}),
        pytest.raises(exc.ArgumentError, match="'CODECS'"),
    ):
        create_async_engine(json_deserializer=str)


def test_what_is_repeated_is_prepared_once_and_a_return_costs_nothing(run, proxy: TCPProxy) -> None:
    alias = connections.settings["default"]
    before = dict(alias)
    alias.update(HOST=proxy.host, PORT=str(proxy.port))

    async def act(engine: AsyncEngine) -> None:
        async def asked(work: Callable[[AsyncConnection], Awaitable[Any]]) -> int:
            start = proxy.round_trips
            async with engine.connect() as held:
                await work(held)
            return proxy.round_trips - start

        async def nothing(held: AsyncConnection) -> None:
            return

        async def reads(held: AsyncConnection) -> None:
            await held.execute(select(1))

        async def sets(held: AsyncConnection) -> None:
            await held.execute(text("SET work_mem = '5MB'"))

        await asked(reads)
        assert await asked(nothing) == 0
        # BEGIN, the statement, ROLLBACK.
        assert await asked(reads) == 3
        await asked(sets)
        assert await asked(sets) == 4
        assert stats().connects == 1

    try:
        run(act)
    finally:
        registry.asyncpg.close_all()
        alias.clear()
        alias.update(before)


def test_a_statement_whose_result_has_changed_is_prepared_anew(run) -> None:
    async def act(engine: AsyncEngine) -> None:
        every = text("SELECT * FROM changing")
        async with engine.begin() as held:
            await held.execute(text("CREATE TABLE changing (a int)"))
        try:
            async with engine.connect() as held:
                await held.execute(every)
            async with engine.begin() as held:
                await held.execute(text("ALTER TABLE changing ADD b text"))
            with pytest.raises(exc.NotSupportedError, match="cached statement plan is invalid"):
                async with engine.connect() as held:
                    await held.execute(every)
            async with engine.connect() as held:
                assert list((await held.execute(every)).keys()) == ["a", "b"]
        finally:
            async with engine.begin() as held:
                await held.execute(text("DROP TABLE changing"))

    run(act)


# -- cancelled


def test_who_is_cancelled_in_a_statement_leaves_nothing_running(run, primary: Node) -> None:
    async def act(engine: AsyncEngine) -> None:
        async def sleeps() -> None:
            async with AsyncSession(engine) as session:
                session.add(Thing(name="lost"))
                await session.flush()
                await session.execute(text("SELECT pg_sleep(60)"))

        task = asyncio.create_task(sleeps())
        running = (
            "SELECT count(*) FROM pg_stat_activity "
            "WHERE state = 'active' AND query = 'SELECT pg_sleep(60)'"
        )
        await until(lambda: primary.execute(running) == [(1,)])
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: stats().used == 0)
        await until(lambda: primary.execute(running) == [(0,)])
        async with engine.begin() as held:
            await held.execute(sqlalchemy.insert(Thing).values(name="kept"))

    run(act)
    assert stored() == ["kept"]


def test_who_is_cancelled_in_the_queue_leaves_it(run) -> None:
    async def act(engine: AsyncEngine) -> None:
        async def third() -> None:
            async with engine.connect():
                pytest.fail("there was a connection")

        async with engine.connect(), engine.connect():
            task = asyncio.create_task(third())
            await until(lambda: stats().waiters == 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (stats().waiters, stats().used) == (0, 2)

    run(act)


def test_cancelled_at_any_step_a_session_gives_its_lease_back(run) -> None:
    async def act(engine: AsyncEngine) -> None:
        async def works() -> None:
            async with AsyncSession(engine) as session, session.begin():
                session.add(Thing(name="a"))
                await session.flush()
                await session.scalars(names)

        await works()
        for step in range(40):
            task = asyncio.create_task(works())
            for _ in range(step):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            await until(lambda: stats().used == 0)
            assert stats().size == stats().idle + stats().connecting

    run(act)


def test_many_tasks_take_turns(run) -> None:
    async def act(engine: AsyncEngine) -> None:
        async def insert(number: int) -> None:
            async with AsyncSession(engine) as session, session.begin():
                session.add(Thing(name=f"{number:02}"))
                await session.flush()
                assert stats().used <= 2

        await asyncio.gather(*map(insert, range(30)))

    run(act)
    assert stored() == [f"{number:02}" for number in range(30)]


# -- failures


def test_a_backend_that_is_killed_costs_one_transaction(run, primary: Node) -> None:
    async def act(engine: AsyncEngine) -> None:
        async with engine.connect() as held:
            await held.execute(sqlalchemy.insert(Thing).values(name="lost"))
            primary.kill_backend(await pid_of(held))
            with pytest.raises(exc.DBAPIError) as caught:
                await held.execute(select(1))
            assert caught.value.connection_invalidated
            assert stats().used == 0
            await held.rollback()
            await held.execute(sqlalchemy.insert(Thing).values(name="kept"))
            await held.commit()

    run(act)
    assert stored() == ["kept"]


def test_a_server_restarted_in_the_middle_costs_those_in_a_transaction(run, primary: Node) -> None:
    async def act(engine: AsyncEngine) -> None:
        async with engine.connect() as held:
            async with engine.connect() as other:
                await other.execute(select(1))
            await held.execute(sqlalchemy.insert(Thing).values(name="lost"))
            await asyncio.to_thread(primary.restart)
            with pytest.raises(exc.DBAPIError):
                await held.commit()
        for _ in range(3):
            async with engine.connect() as held:
                assert await held.scalar(select(1)) == 1

    run(act)
    assert stored() == []


def test_invalidated_detached_and_dropped_ones_are_lent_to_nobody(run) -> None:
    async def act(engine: AsyncEngine) -> None:
        seen = []
        async with engine.connect() as held:
            seen.append(await pid_of(held))
            await held.invalidate()
            assert stats().used == 0
        async with engine.connect() as held:
            seen.append(await pid_of(held))
            raw = await held.get_raw_connection()
            raw.detach()
        dropped = await engine.connect()
        seen.append(await pid_of(dropped))
        del raw, held
        with pytest.warns(exc.SAWarning, match="non-checked-in connection"):  # noqa: PT031
            del dropped
            gc.collect()
        async with engine.connect() as held:
            seen.append(await pid_of(held))
        assert len(set(seen)) == 4

    run(act)


@pytest.mark.parametrize("options", [{"max_size": 1, "TIMEOUT": 0.1}])
def test_an_exhausted_pool_says_so_through_sqlalchemy(run) -> None:
    async def act(engine: AsyncEngine) -> None:
        async with engine.connect():
            with pytest.raises(exc.OperationalError, match="no connection within"):
                await engine.connect()

    run(act)


def test_a_half_made_checkout_gives_its_lease_back(run) -> None:
    async def act(engine: AsyncEngine) -> None:
        def fail(*_: object) -> None:
            raise LookupError

        async with engine.connect():
            pass
        for name in ("connect", "checkout"):
            event.listen(engine.sync_engine, name, fail)
            with pytest.raises(LookupError):
                await engine.connect()
            event.remove(engine.sync_engine, name, fail)

    run(act)


def test_an_option_that_belongs_elsewhere_is_refused(run) -> None:
    with pytest.raises(exc.ArgumentError, match=r"pool_size.*POOLKIT\['ASYNCPG'\]\['default'\]"):
        create_async_engine(pool_size=3)

    async def act(_: AsyncEngine) -> None:
        with pytest.raises(exc.ArgumentError, match="no alias 'nowhere'"):
            await create_async_engine("nowhere").connect()

    run(act)

"""Transactions of asyncpg's that end otherwise than by their last statement."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest

from django_poolkit.pools.asyncpg import transaction
from django_poolkit.pools.asyncpg.pool import AsyncpgPool
from django_poolkit.testing import Node
from django_poolkit.testing.faults import TCPProxy
from tests.pools.asyncpg.support import PATIENCE, MakePool, Run, assert_quiet, in_thread, pid, until


@pytest.fixture
def proxy(primary: Node) -> Iterator[TCPProxy]:
    """A network that fails on request, between a pool and the server."""
    with TCPProxy(primary.host, primary.port) as proxy:
        yield proxy


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transaction, "CUT_TIMEOUT", 0.2)


async def _in_a_block(pool: AsyncpgPool) -> None:
    async with pool.lease() as connection, connection.transaction():
        await connection.execute("SELECT pg_sleep(60)")


async def _in_a_savepoint(pool: AsyncpgPool) -> None:
    async with pool.lease() as connection, connection.transaction(), connection.transaction():
        await connection.execute("SELECT pg_sleep(60)")


async def _among_rows(pool: AsyncpgPool) -> None:
    async for _ in pool.rows("SELECT pg_sleep(60) FROM generate_series(1, 9)", prefetch=1):
        pass


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("work", [_in_a_block, _in_a_savepoint, _among_rows])
def test_a_cancellation_comes_to_its_end_also_where_the_network_is_silent(
    make: MakePool, run_on_each: Run, proxy: TCPProxy, service: str, primary: Node, work: Any
) -> None:
    sleeping = (
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' "
        f"AND application_name = '{service}'"
    )

    async def main() -> None:
        pool = make({"host": "127.0.0.1", "port": proxy.port})
        task = asyncio.create_task(work(pool))
        await until(lambda: primary.execute(sleeping)[0][0])
        await in_thread(proxy.stall)
        task.cancel()
        await asyncio.wait([task], timeout=PATIENCE)
        assert task.cancelled()
        await until(lambda: not pool.stats().used)
        assert_quiet(pool)
        await in_thread(proxy.resume)

    run_on_each(main())


@pytest.mark.usefixtures("impatient")
def test_what_was_not_rolled_back_is_not_gone_on_with(
    make: MakePool, run: Run, proxy: TCPProxy
) -> None:
    async def main() -> None:
        pool = make({"host": "127.0.0.1", "port": proxy.port})
        async with pool.lease() as connection:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(PATIENCE) as limit, connection.transaction():
                    await connection.execute("SELECT 1")
                    await in_thread(proxy.stall)
                    limit.reschedule(asyncio.get_running_loop().time())
                    await connection.execute("SELECT 1")
            await in_thread(proxy.resume)
            with pytest.raises(asyncpg.InterfaceError, match="closed"):
                await connection.execute("SELECT 1")
        assert await pid(pool)
        assert_quiet(pool)

    run(main())


def test_a_cancelled_block_is_rolled_back_and_its_connection_kept(
    make: MakePool, run_on_each: Run
) -> None:
    async def main() -> None:
        pool = make(max_size=1)
        async with pool.lease() as connection:
            await connection.execute("CREATE TABLE written (x int)")
            block, savepoint = connection.transaction(), connection.transaction()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(PATIENCE) as limit, block, savepoint:
                    await connection.execute("INSERT INTO written VALUES (1)")
                    limit.reschedule(asyncio.get_running_loop().time())
                    await connection.execute("SELECT pg_sleep(60)")
            assert not connection.is_in_transaction()
            assert await connection.fetchval("SELECT count(*) FROM written") == 0
            async with connection.transaction(isolation="serializable", readonly=True):
                shown = "SELECT current_setting('transaction_isolation')"
                assert await connection.fetchval(shown) == "serializable"
            await connection.execute("DROP TABLE written")
            before = connection.get_server_pid()
        assert await pid(pool) == before

    run_on_each(main())


def test_a_lease_that_is_dropped_within_a_transaction_is_taken_back(
    make: MakePool, run: Run
) -> None:
    async def main() -> None:
        pool = make(max_size=1)
        lease = await pool.acquire()
        await lease.connection.transaction().start()
        del lease
        with pytest.warns(match="dropped"):
            await until(lambda: pool.stats().idle == 1)
        assert pool.stats().leaks == 1
        assert await pid(pool)

    run(main())


def test_a_connection_class_may_have_blocks_of_its_own(make: MakePool, run: Run) -> None:
    class Serializable(asyncpg.Connection):  # type: ignore[misc]
        def transaction(self, **how: Any) -> Any:
            return super().transaction(**{**how, "isolation": "serializable"})

    async def main() -> None:
        pool = make(connection_class=Serializable)
        async with pool.lease() as connection, connection.transaction(readonly=True):
            shown = [
                await connection.fetchval(f"SHOW transaction_{n}")
                for n in ("isolation", "read_only")
            ]
        assert shown == ["serializable", "on"]
        assert_quiet(pool)

    run(main())

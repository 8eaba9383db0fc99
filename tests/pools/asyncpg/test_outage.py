"""What callers notice of a server that ends sessions, goes away and comes back."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

import asyncpg
import pytest

from django_poolkit.pools.asyncpg import upkeep
from django_poolkit.pools.asyncpg.errors import PoolTimeout
from django_poolkit.pools.chance import chance
from django_poolkit.testing import Node
from django_poolkit.testing.faults import TCPProxy
from tests.pools.asyncpg.support import MakePool, Run, assert_quiet, fill, pid, queue_up, until


def test_killed_idle_sessions_are_no_callers_trouble(
    make: MakePool, run_on_each: Run, primary: Node, service: str
) -> None:
    async def main() -> None:
        pool = make(max_size=8)
        before = await fill(pool, 8)
        await asyncio.to_thread(primary.kill_backends, service)
        for _ in range(20):
            assert await pid(pool) not in before
        assert pool.stats().closed == {"dead": 8}
        assert_quiet(pool)

    run_on_each(main())


def test_a_session_killed_under_a_query_is_one_callers_error(
    make: MakePool, run: Run, primary: Node
) -> None:
    async def main() -> None:
        pool = make(max_size=1)
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError)):
            async with pool.lease() as connection:
                work = asyncio.create_task(connection.execute("SELECT pg_sleep(60)"))
                await asyncio.sleep(0)
                await asyncio.to_thread(primary.kill_backend, connection.get_server_pid())
                await work
        assert await pid(pool)
        assert_quiet(pool)

    run(main())


def test_a_silent_network_costs_one_bounded_probe(make: MakePool, run: Run, primary: Node) -> None:
    async def main() -> None:
        with TCPProxy(primary.host, primary.port) as proxy:
            pool = make({"host": "127.0.0.1", "port": proxy.port}, PROBE_TIMEOUT=0.2)
            await fill(pool, 3)
            for physical in (await pool.line()).idle:
                physical.used_at -= 1.0
            proxy.stall()
            started = time.monotonic()
            with pytest.raises(PoolTimeout):
                await pool.acquire(timeout=0.6)
            assert time.monotonic() - started < 0.6 * 3
            assert pool.stats().closed == {"silent": 3}
            proxy.resume()
            assert await pid(pool)
            await pool.close()

    run(main())


def test_a_server_that_comes_back_serves_at_once(make: MakePool, run: Run, primary: Node) -> None:
    async def main() -> None:
        with TCPProxy(primary.host, primary.port) as proxy:
            pool = make({"host": "127.0.0.1", "port": proxy.port}, RECONNECT_CAP=0.3)
            await fill(pool, 2)
            proxy.refuse()
            proxy.drop()
            with pytest.raises(PoolTimeout) as caught:
                await pool.acquire(timeout=1.0)
            assert "refused" in str(caught.value)
            waiting = asyncio.create_task(pool.acquire(timeout=10.0))
            await until(lambda: pool.stats().waiters == 1)
            proxy.accept()
            started = time.monotonic()
            await (await waiting).release()
            assert time.monotonic() - started < 3 * 1.25 * 0.3
            assert pool.stats().last_connect_error is None
            assert_quiet(pool)
            await pool.close()

    run(main())


def test_a_forked_child_opens_its_own(
    make: MakePool, run: Run, primary: Node, service: str
) -> None:
    pool = make(max_size=2)
    loop = asyncio.new_event_loop()
    mine = loop.run_until_complete(pid(pool))
    reads, writes = os.pipe()
    child = os.fork()
    if not child:
        code = 1
        try:
            stats = pool.stats()
            found = [stats.size, stats.acquired, len(pool.lines), asyncio.run(pid(pool))]
            os.write(writes, " ".join(map(str, found)).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(writes)
    _, status = os.waitpid(child, 0)
    with os.fdopen(reads) as answer:
        *inherited, theirs = map(int, answer.read().split())
    assert (status, inherited) == (0, [0, 0, 0])
    assert theirs != mine

    async def again() -> int:
        async with pool.lease() as connection:
            assert await connection.fetchval("SELECT 1") == 1
            return int(connection.get_server_pid())

    assert loop.run_until_complete(again()) == mine
    loop.run_until_complete(pool.close())
    loop.close()


def test_settings_that_a_pooler_drops_are_set_by_statement(
    make: MakePool, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from django_poolkit.pools.asyncpg.connect import Target
    from django_poolkit.pools.errors import PoolWarning

    async def refusing(**options: Any) -> Any:
        if set(options["server_settings"]) - {"application_name"}:
            raise asyncpg.ProtocolViolationError("unsupported startup parameter: TimeZone")
        return await asyncpg.connect(**options)

    async def main() -> None:
        pool = make(connect=refusing, max_size=1)
        settings = {"TimeZone": "Asia/Tokyo", "role": "pg_read_all_data"}
        pool.connector._target = Target(connect=pool.target.connect, settings=settings)
        with pytest.warns(PoolWarning, match="TimeZone"):
            await fill(pool, 1)
        for _ in range(2):
            async with pool.lease() as connection:
                assert await connection.fetchval("SHOW TimeZone") == "Asia/Tokyo"
                assert await connection.fetchval("SELECT current_user") == "pg_read_all_data"
                await connection.execute("SET TimeZone TO 'UTC'; RESET ROLE")
        assert pool.stats().resets == 2

    run(main())


def test_a_server_is_tried_on_where_timers_come_too_early(
    make: MakePool, run_on_each: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chance, "uniform", lambda low, high: low)
    # Rounds, which would try again as well, are far apart.
    monkeypatch.setattr(upkeep, "interval", lambda config: 60.0)

    async def main() -> None:
        with TCPProxy("127.0.0.1", 1) as proxy:
            proxy.refuse()
            pool = make({"host": "127.0.0.1", "port": proxy.port}, RECONNECT_CAP=0.0103)
            waiting = await queue_up(pool)
            await until(lambda: pool.stats().connect_errors >= 40)
            waiting.cancel()
            await pool.close()

    run_on_each(main())

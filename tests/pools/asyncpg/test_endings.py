"""Who is told of an end on another event loop, in a forked child, and while nothing answers."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from django_poolkit import LeaseReleased, PoolClosed
from django_poolkit.pools.asyncpg.listen import Gap, Notification
from django_poolkit.testing import Node
from django_poolkit.testing.faults import TCPProxy
from django_poolkit.testing.waiting import wait_until
from tests.pools.asyncpg.support import PATIENCE, MakePool, Run, assert_quiet, fill, queue_up, until


@pytest.fixture
def other() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop that runs in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def test_a_task_closes_what_other_loops_have_and_tells_who_waits_there(
    make: MakePool, run: Run, primary: Node, service: str, other: asyncio.AbstractEventLoop
) -> None:
    pool = make(max_size=1)

    async def hold_and_wait() -> tuple[Any, asyncio.Task[Any]]:
        return await pool.acquire(), await queue_up(pool)

    lease, waiting = asyncio.run_coroutine_threadsafe(hold_and_wait(), other).result(PATIENCE)

    async def refused() -> bool:
        with pytest.raises(PoolClosed):
            await waiting
        return True

    async def main() -> None:
        await fill(pool, 1)
        await pool.close()
        assert not pool.lines

    run(main())
    assert asyncio.run_coroutine_threadsafe(refused(), other).result(PATIENCE)
    # What is leased is its owner's until it is given back.
    assert len(primary.sessions(service)) == 1
    asyncio.run_coroutine_threadsafe(lease.release(), other).result(PATIENCE)
    wait_until(lambda: not primary.sessions(service))


@pytest.mark.parametrize("closer", ["task", "thread"])
def test_a_loop_that_stands_still_keeps_nobody_from_closing(
    make: MakePool, run: Run, primary: Node, service: str, closer: str
) -> None:
    pool, still = make(), asyncio.new_event_loop()
    try:
        still.run_until_complete(fill(pool, 2))
        assert len(primary.sessions(service)) == 2
        if closer == "task":
            run(pool.close())
        else:
            pool.close_from_thread(PATIENCE)
        assert not pool.lines
        wait_until(lambda: not primary.sessions(service))
    finally:
        still.close()


def test_a_child_has_lost_the_leases_it_inherits_and_its_parent_has_not(
    make: MakePool,
) -> None:
    pool, loop = make(max_size=1), asyncio.new_event_loop()
    lease = loop.run_until_complete(pool.acquire())
    ask = "SELECT pg_backend_pid()"
    before = loop.run_until_complete(lease.connection.fetchval(ask))
    child = os.fork()
    if not child:
        code = 1
        try:
            stats = pool.stats()
            assert (stats.size, stats.used) == (0, 0)
            assert lease.released
            with pytest.raises(LeaseReleased):
                loop.run_until_complete(lease.release())
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert status == 0
    assert loop.run_until_complete(lease.connection.fetchval(ask)) == before
    loop.run_until_complete(lease.release())
    assert pool.stats().idle == 1
    loop.run_until_complete(pool.close())
    loop.close()


def test_an_acquired_lease_ends_with_its_block(make: MakePool, run: Run) -> None:
    async def main() -> None:
        pool = make(max_size=1)
        lease = await pool.acquire()
        async with lease as connection:
            assert await connection.fetchval("SELECT 1") == 1
        assert lease.released
        async with await pool.acquire() as connection:
            assert pool.stats().used == 1
        lease = await pool.acquire()
        async with lease:
            await lease.release()  # before its block's end
        lease = await pool.acquire()
        with pytest.raises(TypeError, match="async with"):
            lease.__enter__()
        await lease.release()
        assert_quiet(pool)

    run(main())


def test_a_listener_goes_on_trying_while_nothing_answers(
    make: MakePool, run: Run, primary: Node, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        with TCPProxy(primary.host, primary.port) as proxy:
            pool = make({"host": "127.0.0.1", "port": proxy.port}, RECONNECT_CAP=0.2)
            direct = make()
            async with pool.listener("orders") as listener:
                proxy.refuse()
                proxy.drop()
                await until(lambda: caplog.text.count("event=connect_failed") >= 3)
                assert not listener.connected
                proxy.accept()
                async for found in listener:
                    if isinstance(found, Gap):
                        assert found.reason == "connection_lost"
                        async with direct.lease() as connection:
                            await connection.execute("NOTIFY orders, 'after'")
                        continue
                    assert isinstance(found, Notification)
                    assert found.payload == "after"
                    break

    run(main())


def test_what_no_listener_can_be_is_refused(make: MakePool, run: Run) -> None:
    async def main() -> None:
        pool = make()
        for options in ({"keep": 0}, {"heartbeat": 0.0}):
            with pytest.raises(ValueError, match="keep must be at least 1, and heartbeat above 0"):
                pool.listener("orders", **options)
        with pytest.raises(ValueError, match="name one channel"):
            pool.listener("orders", "")
        await pool.close()
        with pytest.raises(PoolClosed):
            async with pool.listener("orders"):
                raise AssertionError("not to be entered")

    run(main())

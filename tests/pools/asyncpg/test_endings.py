"""Who is told of an end on another event loop, in a forked child, and while nothing answers."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from typing import Any, cast

import pytest

from django_poolkit import LeaseReleased, PoolClosed
from django_poolkit.pools.asyncpg.listen import Gap, Notification
from django_poolkit.testing import Node
from django_poolkit.testing.faults import TCPProxy
from django_poolkit.testing.waiting import wait_until
from tests.pools.asyncpg.support import (
    LOOPS,
    PATIENCE,
    MakePool,
    Run,
    assert_quiet,
    fill,
    queue_up,
    runner,
    running,
    until,
)


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
        assert list(pool.lines) == [other]

    run(main())
    assert asyncio.run_coroutine_threadsafe(refused(), other).result(PATIENCE)
    # What is leased is its owner's until it is given back.
    assert len(primary.sessions(service)) == 1
    assert pool.stats().used == 1
    asyncio.run_coroutine_threadsafe(lease.release(), other).result(PATIENCE)
    assert not pool.lines
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


@pytest.mark.parametrize("closer", ["task", "thread"])
@pytest.mark.parametrize("kind", LOOPS)
def test_a_loop_that_stood_still_goes_on_without_the_pool(
    make: MakePool, run: Run, primary: Node, service: str, kind: str, closer: str
) -> None:
    pool, other = make(max_size=2), make(server_settings={"application_name": f"{service}-2"})

    async def hold_and_wait() -> tuple[list[Any], asyncio.Task[Any]]:
        leases = [await pool.acquire(), await pool.acquire()]
        return leases, await queue_up(pool)

    async def go_on(waiting: asyncio.Task[Any]) -> None:
        # The numbers of the sockets that are gone are free for others.
        await fill(other, 3)
        with pytest.raises(PoolClosed):
            await asyncio.wait_for(waiting, PATIENCE)

    with asyncio.Runner(loop_factory=LOOPS[kind]) as still:
        leases, waiting = still.run(hold_and_wait())
        if closer == "task":
            run(pool.close())
        else:
            pool.close_from_thread(PATIENCE)
        wait_until(lambda: not primary.sessions(service))
        assert all(lease.released for lease in leases)
        still.run(go_on(waiting))


@pytest.mark.parametrize("work", ["close", "clean", "cut off", "probe", "connect"])
def test_what_a_loop_ends_before_it_has_begun_is_done_all_the_same(
    make: MakePool, run_on_each: Run, primary: Node, service: str, work: str
) -> None:
    pool = make(max_size=1, **({"KEEPALIVE": 0.001} if work == "probe" else {}))

    async def main() -> None:
        lease = await pool.acquire()
        (line,) = pool.lines.values()
        if work == "connect":
            await lease.discard()
            pool.resize(1, 1)
            return
        await lease.connection.execute("SET search_path TO nowhere")
        if work in ("close", "probe"):
            await lease.release()
            await until(lambda: pool.stats().idle)
        if work == "close":
            pool.recycle()
        elif work == "probe":
            line.soon(line.keep_house)
        else:
            lease.cut = work == "cut off"
            work_of_release = asyncio.create_task(lease.release())
            assert not work_of_release.done()
        # The loop has one more turn, in which the task is made.

    run_on_each(main())
    # Not by a garbage collector, and not by the next loop.
    assert not running(primary, service)
    wait_until(lambda: not primary.sessions(service))
    stats = pool.stats()
    assert not pool.lines
    assert (stats.size, stats.connects) == (0, sum(stats.closed.values()))


@pytest.mark.parametrize(
    ("kind", "end"),
    [(kind, end) for kind in LOOPS for end in ("release", "discard")] + [("asyncio", "kill")],
)
@pytest.mark.parametrize("turns", [0, 2, 5])
def test_a_loop_that_ends_while_a_statement_is_cut_off_leaves_nothing_running(
    make: MakePool, primary: Node, service: str, kind: str, end: str, turns: int
) -> None:
    pool = make(max_size=1)
    kept: list[Any] = []

    async def main() -> None:
        lease = await pool.acquire()
        kept.extend([lease, asyncio.create_task(lease.connection.execute("SELECT pg_sleep(60)"))])
        await until(lambda: running(primary, service))
        if end == "kill":
            pool.kill(lease.key)
        else:
            kept.append(asyncio.create_task(getattr(lease, end)()))
        for _ in range(turns):
            await asyncio.sleep(0)

    runner(kind)(main())
    wait_until(lambda: not running(primary, service))
    assert (pool.stats().size, pool.stats().used) == (0, 0)
    wait_until(lambda: not primary.sessions(service))
    for task in kept[1:]:
        assert task.cancelled() or task.exception()


@pytest.mark.filterwarnings("ignore:unclosed resource:ResourceWarning")  # uvloop's, of the lease
def test_what_is_held_past_the_end_of_its_loop_is_taken_back(
    make: MakePool, run_on_each: Run, primary: Node, service: str
) -> None:
    pool = make()

    async def hold() -> Any:
        lease = await pool.acquire()
        work = asyncio.create_task(lease.connection.execute("SELECT pg_sleep(60)"))
        await until(lambda: running(primary, service))
        return lease, work

    lease, work = run_on_each(hold())
    assert work.cancelled()
    wait_until(lambda: not running(primary, service))
    stats = pool.stats()
    assert (stats.size, stats.closed) == (0, {"loop_closed": 1})
    assert lease.released
    wait_until(lambda: not primary.sessions(service))


@pytest.mark.filterwarnings("ignore:unclosed resource:ResourceWarning")  # uvloop's, of the lease
def test_what_is_dropped_when_pool_and_loop_have_ended_is_closed(
    make: MakePool, run_on_each: Run, primary: Node, service: str
) -> None:
    pool = make()

    async def hold() -> Any:
        lease = await pool.acquire()
        await pool.close()
        return lease

    lease = run_on_each(hold())
    assert not lease.released
    del lease
    wait_until(lambda: not primary.sessions(service))
    assert not pool.lines
    assert (pool.stats().size, pool.stats().closed) == (0, {"loop_closed": 1})


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # of the lease
@pytest.mark.parametrize("way", ["close", "close_from_thread"])
def test_a_loop_that_ends_after_its_pool_leaves_nothing_running(
    make: MakePool, run_on_each: Run, primary: Node, service: str, way: str
) -> None:
    pool = make()

    async def drop() -> None:
        lease = await pool.acquire()
        await lease.connection.execute("SELECT pg_sleep(60)")

    async def main() -> None:
        dropping = asyncio.create_task(drop())
        await until(lambda: running(primary, service))
        if way == "close":
            await pool.close()
        else:
            pool.close_from_thread(1.0)
        assert not dropping.done()

    run_on_each(main())
    wait_until(lambda: not running(primary, service))
    assert (pool.stats().size, pool.stats().used) == (0, 0)
    wait_until(lambda: not primary.sessions(service))


def test_a_lease_may_be_dropped_while_what_its_loop_had_is_let_go_of(make: MakePool) -> None:
    pool = make(max_size=2)
    loop = asyncio.new_event_loop()
    lease = loop.run_until_complete(pool.acquire())
    (line,) = pool.lines.values()
    loop.close()

    class Dropped:
        @property
        def key(self) -> int:
            if self is first:  # as a finalizer does it, in any thread at any moment
                line.orphans.append(cast(Any, Dropped()))
            return 0

    first = Dropped()
    line.orphans.append(cast(Any, first))
    stats = pool.stats()
    assert (stats.size, stats.closed) == (0, {"loop_closed": 1})
    assert lease.released
    assert not line.orphans


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

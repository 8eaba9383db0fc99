"""Acquires in the bridge: in one queue with tasks and threads, and nothing stops the loop."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from django_poolkit.pools.bridge.driver import await_only, run
from django_poolkit.pools.deadline import deadline
from django_poolkit.pools.errors import PoolError
from django_poolkit.pools.postgres.errors import PoolClosed, PoolDeadlock, PoolTimeout
from tests.pools.bridge.support import by_itself, one
from tests.pools.postgres.tasks import (
    LOOPS,
    assert_quiet,
    cancelled,
    queued,
    run_on,
    run_on_each,
    until,
)
from tests.pools.support import Call, queue_up

__all__ = ["run_on_each"]


@pytest.fixture
def pool(make_pool):
    """A pool of one connection."""
    return make_pool(max_size=1)


def test_who_waits_suspends_its_task_and_is_served(pool, run_on_each):
    async def main():
        lease = pool.acquire()
        task = await queued(pool, run(one, pool, "SELECT 3"))
        lease.release()
        assert await task == 3

    run_on_each(main)
    assert pool.stats().waited >= 1
    assert_quiet(pool)


def test_threads_tasks_and_calls_stand_in_one_queue(pool, run_on_each):
    order: list[str] = []

    def in_turn(name: str) -> None:
        with pool.lease():
            order.append(name)

    async def in_a_task(name: str) -> None:
        async with pool.alease():
            order.append(name)

    async def main():
        lease = pool.acquire()
        calls = [await queued(pool, run(in_turn, "call"))]
        thread = await asyncio.to_thread(queue_up, pool, in_turn, "thread")
        calls.append(await queued(pool, in_a_task("task")))
        calls.append(await queued(pool, run(in_turn, "last")))
        lease.release()
        await asyncio.gather(*calls)
        await asyncio.to_thread(thread.result)

    run_on_each(main)
    assert order == ["call", "thread", "task", "last"]
    assert_quiet(pool)


def test_a_timeout_says_how_the_pool_was(make_pool, run_on_each):
    pool = make_pool(max_size=1, timeout=0.1)

    async def main():
        lease = pool.acquire()
        with pytest.raises(PoolTimeout, match="used 1/1"):
            await run(one, pool)
        with deadline(0.05), pytest.raises(PoolTimeout, match="its deadline"):
            await run(pool.acquire, 5.0)
        lease.release()

    run_on_each(main)
    assert_quiet(pool)


def test_a_pool_that_is_closed_tells_who_waits(pool, run_on_each):
    async def main():
        lease = pool.acquire()
        task = await queued(pool, run(one, pool))
        await asyncio.to_thread(pool.close)
        with pytest.raises(PoolClosed):
            await task
        lease.release()

    run_on_each(main)


def test_who_is_cancelled_leaves_the_queue(pool, run_on_each):
    async def main():
        lease = pool.acquire()
        task = await queued(pool, run(one, pool))
        await cancelled(task)
        assert pool.stats().waiters == 0
        lease.release()

    run_on_each(main)
    assert_quiet(pool)


@pytest.mark.parametrize("by", ["the loop", "a thread"])
def test_cancelling_in_the_tick_of_the_hand_over_loses_no_slot(make_pool, run_on_each, by):
    pool = make_pool(max_size=4)

    async def main():
        for number in range(200):
            leases = [await pool.aacquire() for _ in range(4)]
            task = await queued(pool, run(one, pool))
            if by == "the loop":
                await leases[0].release()
            else:
                thread = threading.Thread(target=pool.discard, args=(leases[0],))
                thread.start()
                if number % 2:
                    thread.join()
            task.cancel()
            await asyncio.wait([task])
            if by != "the loop":
                await asyncio.to_thread(thread.join)
            for lease in leases[1:]:
                await lease.release()

    run_on_each(main)
    assert_quiet(pool)
    assert [one(pool) for _ in range(4)] == [1] * 4


def test_the_last_task_to_wait_for_all_others_is_told(make_pool, run_on_each):
    pool = make_pool(max_size=2, timeout=30.0)

    def two(ready: asyncio.Barrier) -> str:
        with pool.lease():
            await_only(ready.wait())
            with pool.lease():
                return "served"

    async def main():
        ready = asyncio.Barrier(2)
        tasks = [asyncio.ensure_future(run(two, ready)) for _ in range(2)]
        found = await asyncio.gather(*tasks, return_exceptions=True)
        found.sort(key=lambda each: isinstance(each, PoolDeadlock))
        assert found[0] == "served"
        assert isinstance(found[1], PoolDeadlock)
        assert "tasks" in str(found[1])

    run_on_each(main)
    assert_quiet(pool)


def test_calls_of_one_thread_are_no_deadlock(make_pool, run_on_each):
    """They hold all connections, and one of their thread waits: but another task will release."""
    pool = make_pool(max_size=1, timeout=30.0)

    async def main():
        go = asyncio.Event()

        def hold() -> None:
            with pool.lease():
                await_only(go.wait())

        holder = asyncio.ensure_future(run(hold))
        await until(lambda: pool.stats().used == 1)
        waiter = await queued(pool, run(one, pool))
        go.set()
        assert await waiter == 1
        await holder

    run_on_each(main)
    assert_quiet(pool)


def test_a_lease_names_the_task_that_has_it(pool):
    async def main():
        def hold() -> None:
            with pool.lease():
                (lease,) = pool.leases()
                assert "the-caller" in lease.thread

        await asyncio.create_task(run(hold), name="the-caller")

    asyncio.run(main())
    with pool.lease():
        (lease,) = pool.leases()
        assert "the-caller" not in lease.thread


def test_a_lease_tells_where_its_call_is(pool, primary, run_on_each):
    inside: list[bool] = []

    def hold_on(go: asyncio.Event) -> None:
        with pool.lease():
            await_only(slowly(go))

    async def slowly(go: asyncio.Event) -> None:
        inside.append(True)
        await go.wait()

    async def main():
        go = asyncio.Event()
        task = asyncio.ensure_future(run(hold_on, go))
        await until(lambda: bool(inside))
        (lease,) = pool._ledger.leases_locked()
        names = [line.rsplit(".", 1)[-1] for line in lease.where_now()]
        assert names.index("slowly") < names.index("hold_on")
        assert lease.holder is task
        del lease
        go.set()
        await task

    run_on_each(main)
    assert_quiet(pool)


def test_a_check_of_the_user_runs_in_a_thread(make_pool, run_on_each):
    threads: list[Any] = []

    def check(connection: Any) -> None:
        threads.append(threading.current_thread())
        connection.execute("SELECT 1")
        connection.rollback()

    pool = make_pool(max_size=1, check=check)

    async def main():
        assert await run(one, pool) == 1

    run_on_each(main)
    assert threading.main_thread() not in threads
    assert_quiet(pool)


def test_a_connection_that_has_died_is_replaced_unseen(make_pool, primary, app, run_on_each):
    pool = make_pool(max_size=1, kwargs={"application_name": app}, bypass=0.0)

    async def main():
        assert await run(one, pool) == 1
        await asyncio.to_thread(primary.kill_backends, app)
        assert await run(one, pool, "SELECT 2") == 2

    run_on_each(main)
    assert_quiet(pool)


def test_two_loops_and_two_threads_share_a_pool(make_pool):
    pool = make_pool(max_size=3, timeout=60.0)

    async def main() -> int:
        async def some() -> int:
            return sum([await run(by_itself, pool) for _ in range(20)])

        return sum(await asyncio.gather(*(some() for _ in range(10))))

    def plainly() -> int:
        return sum(by_itself(pool) for _ in range(200))

    calls = [Call(run_on, kind, main) for kind in LOOPS] + [Call(plainly) for _ in range(2)]
    assert [call.result(120.0) for call in calls] == [200] * 4
    assert_quiet(pool)


def test_five_thousand_calls_wait_for_two_connections(make_pool):
    pool = make_pool(max_size=2, timeout=120.0)
    fill = [pool.acquire() for _ in range(2)]

    def resident() -> int:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    async def main() -> tuple[int, float]:
        before = resident()
        tasks = [asyncio.ensure_future(run(by_itself, pool)) for _ in range(5_000)]
        await until(lambda: pool.load >= 5_002)
        each = (resident() - before) / len(tasks)
        for lease in fill:
            lease.release()
        return sum(await asyncio.gather(*tasks)), each

    served, each = asyncio.run(main())
    assert served == 5_000
    assert each < 40 * 1024
    assert pool.stats().timeouts == 0
    assert_quiet(pool)


def test_a_finalizer_in_the_pool_is_refused_as_elsewhere(pool):
    async def main():
        def work() -> None:
            before, pool._inside = pool._inside, threading.get_ident()
            try:
                with pytest.raises(PoolError, match="finalizers cannot wait"):
                    pool.acquire()
            finally:
                pool._inside = before

        await run(work)

    asyncio.run(main())

"""Leases that rest between two turns, in the bridge: whose they are, and where they end."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable

import pytest

from django_poolkit.pools.bridge.driver import run
from django_poolkit.pools.lease import Lease
from django_poolkit.pools.postgres import ConnectionPool
from tests.pools.bridge.support import by_itself
from tests.pools.postgres.tasks import LOOPS, assert_quiet, run_on_each
from tests.pools.postgres.test_resting import make, rouse
from tests.pools.support import Call

__all__ = ["make", "run_on_each"]


@pytest.fixture
def pool(make: Callable[..., ConnectionPool]) -> ConnectionPool:
    """A pool of one connection."""
    return make(max_size=1)


def used_and_rested(pool: ConnectionPool) -> Lease:
    """Return a lease that rests after a statement."""
    lease = pool.acquire()
    lease.connection.autocommit = True
    lease.connection.execute("SELECT 1")
    lease.connection.autocommit = False
    assert pool.rest(lease)
    return lease


def test_each_turn_is_of_the_task_that_began_it(pool, run_on_each):
    async def main():
        def once() -> Lease:
            lease: Lease = pool.acquire()
            assert "first" in lease.thread
            assert pool.rest(lease)
            return lease

        lease = await asyncio.create_task(run(once), name="first")
        assert (lease.loop, lease.task) == (None, None)  # at rest it is nobody's

        def again() -> None:
            assert rouse(pool, lease)
            assert lease.task() is asyncio.current_task()  # type: ignore[misc]
            assert "second" in lease.thread
            assert pool.rest(lease)

        await asyncio.create_task(run(again), name="second")
        assert rouse(pool, lease)  # by plain code of the same thread
        assert (lease.loop, lease.task) == (None, None)
        assert pool.rest(lease)
        pool.end_rest(lease)

    run_on_each(main)
    assert_quiet(pool)


def test_a_call_takes_what_rests_without_a_wait(pool, run_on_each):
    async def main():
        first = await run(used_and_rested, pool)
        coroutine = run(pool.acquire)
        with pytest.raises(StopIteration) as ended:
            coroutine.send(None)  # it ends at once
        lease = ended.value.value
        assert first.released
        assert not rouse(pool, first)
        lease.release()

    run_on_each(main)
    assert_quiet(pool)


def test_what_rests_in_a_call_is_anybodys(pool, run_on_each):
    async def main():
        lease = await run(used_and_rested, pool)
        assert await asyncio.to_thread(by_itself, pool, "SELECT 4") == 4
        assert lease.released
        lease = await run(used_and_rested, pool)
        async with pool.alease() as connection:
            await connection.execute("SELECT 1")
        assert lease.released

    run_on_each(main)
    assert_quiet(pool)


@pytest.mark.parametrize("kind", LOOPS)
def test_what_rests_on_a_closed_loop_is_no_leak(pool, kind):
    loop = LOOPS[kind]()
    lease = loop.run_until_complete(run(used_and_rested, pool))
    loop.close()
    assert (pool.stats().used, pool.stats().leaks) == (0, 0)
    assert lease.released
    del lease
    gc.collect()
    assert Call(by_itself, pool).result() == 1
    assert pool.stats().leaks == 0
    assert_quiet(pool)

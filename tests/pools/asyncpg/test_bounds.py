"""What an asyncpg pool spends on those who wait, and on hooks that do not come to an end."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import pytest

from django_poolkit.pools.asyncpg.errors import PoolTimeout
from django_poolkit.pools.asyncpg.state import Waiter
from tests.pools.asyncpg.support import (
    MakePool,
    Run,
    assert_quiet,
    gather,
    pid,
    queue_up,
    until,
)


class _Counting(OrderedDict[Waiter, None]):
    """A queue that counts how many of it are looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def __iter__(self) -> Iterator[Waiter]:
        for waiter in super().__iter__():
            self.seen += 1
            yield waiter


def test_who_queues_does_not_look_at_all_who_wait_already(make: MakePool, run: Run) -> None:
    many = 300

    async def main() -> None:
        pool = make(max_size=1)
        lease = await pool.acquire()
        queue = lease.line.waiters = _Counting()
        crowd = [asyncio.create_task(pool.acquire()) for _ in range(many)]
        await until(lambda: len(queue) == many)
        assert queue.seen <= 3 * many
        for task in crowd:
            task.cancel()
        await gather(*crowd)
        await lease.release()
        assert_quiet(pool)

    run(main())


def test_cancelled_waiters_are_no_reason_to_connect(make: MakePool, run: Run) -> None:
    async def main() -> None:
        pool = make(max_size=1)
        lease = await pool.acquire()
        waiter = await queue_up(pool)
        waiter.cancel()  # and has no turn yet to leave the queue
        with lease.line.lock:
            pool.max_size = 2
            assert lease.line.plan_locked() == 0
            pool.max_size = 1
        await gather(waiter)
        await lease.release()
        assert_quiet(pool)

    run(main())


def test_an_init_that_hangs_gives_its_place_to_another_connect(make: MakePool, run: Run) -> None:
    calls = 0

    async def init(connection: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            await asyncio.Event().wait()

    async def main() -> None:
        # A connect has two seconds at the least.
        pool = make(max_size=1, init=init, TIMEOUT=0.2)
        with pytest.raises(PoolTimeout):
            await pool.acquire()
        lease = await pool.acquire(10.0)
        assert calls == 2
        assert pool.stats().connect_errors == 1
        await lease.release()
        assert_quiet(pool)

    run(main())


def test_a_setup_that_hangs_does_so_no_longer_than_the_acquire(make: MakePool, run: Run) -> None:
    hangs = False

    async def setup(connection: Any) -> None:
        if hangs:
            await asyncio.Event().wait()

    async def main() -> None:
        nonlocal hangs
        pool = make(max_size=1, setup=setup)
        first = await pid(pool)
        hangs = True
        async with asyncio.timeout(10.0):
            with pytest.raises(PoolTimeout, match="'setup'"):
                await pool.acquire(0.2)
        assert pool.stats().timeouts == 1
        hangs = False
        assert await pid(pool) != first
        assert_quiet(pool)

    run(main())


def test_a_timeout_of_setups_own_is_what_it_raises(make: MakePool, run: Run) -> None:
    async def setup(connection: Any) -> None:
        raise TimeoutError("of setup")

    async def main() -> None:
        pool = make(setup=setup)
        with pytest.raises(TimeoutError, match="of setup") as caught:
            await pool.acquire()
        assert type(caught.value) is TimeoutError
        assert_quiet(pool)

    run(main())

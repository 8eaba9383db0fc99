"""What an asyncpg pool spends on those who wait, and on hooks that do not come to an end."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterator

from django_poolkit.pools.asyncpg.state import Waiter
from tests.pools.asyncpg.support import (
    MakePool,
    Run,
    assert_quiet,
    gather,
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

"""Tasks in the queue, in one line with threads; cancellation at each await of an acquire."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from typing import Any

import pytest
from psycopg import waiting

from django_poolkit.pools.lease import Lease
from django_poolkit.pools.postgres import ConnectionPool, deadlock
from django_poolkit.pools.postgres.errors import (
    PoolClosed,
    PoolDeadlock,
    PoolPaused,
    PoolTimeout,
    TooManyWaiters,
)
from django_poolkit.pools.postgres.task_waiter import TaskWaiter
from django_poolkit.testing.waiting import wait_until
from tests.pools.postgres.tasks import assert_quiet, queued, run_on_each, until
from tests.pools.support import Call, queue_up

NOBODY: Any = None

__all__ = ["run_on_each"]


async def plain(pool: ConnectionPool, seconds: float | None = None) -> Lease:
    """Acquire what threads have, in a task."""
    return await pool.acquire_as(Lease, seconds)


class TestTaskWaiter:
    def test_it_accepts_one_connection(self, run_on_each):
        async def main():
            waiter = TaskWaiter(NOBODY)
            assert waiter.set("first")
            assert not waiter.set("second")
            assert not waiter.fail(ValueError())
            await waiter.turn(60.0)
            return waiter.connection, waiter.error

        assert run_on_each(main) == ("first", None)

    def test_it_is_served_though_its_loop_ends_before_that_is_known(self, monkeypatch):
        made: Future[TaskWaiter] = Future()

        async def main() -> None:
            waiter = TaskWaiter(NOBODY)
            made.set_result(waiter)
            await waiter.turn(60.0)

        thread = threading.Thread(target=lambda: asyncio.run(main()))
        thread.start()
        waiter = made.result()
        wake = waiter.loop.call_soon_threadsafe

        def slowly(*args: Any) -> Any:
            handle = wake(*args)
            thread.join()  # it has gone on meanwhile, and come to its end
            return handle

        monkeypatch.setattr(waiter.loop, "call_soon_threadsafe", slowly)
        assert waiter.set("first")
        assert waiter.loop.is_closed()
        assert waiter.connection == "first"

    def test_it_accepts_one_error(self, run_on_each):
        error = ValueError()

        async def main():
            waiter = TaskWaiter(NOBODY)
            assert waiter.fail(error)
            assert not waiter.set("late")
            await waiter.turn(60.0)
            return waiter.connection, waiter.error

        assert run_on_each(main) == (None, error)

    def test_another_thread_wakes_it(self, run_on_each):
        async def main():
            waiter = TaskWaiter(NOBODY)
            turn = asyncio.ensure_future(waiter.turn(60.0))
            await asyncio.sleep(0)
            assert await asyncio.to_thread(waiter.set, "connection")
            await turn
            return waiter.connection

        assert run_on_each(main) == "connection"

    @pytest.mark.parametrize("where", ["same", "other"])
    def test_one_that_was_cancelled_refuses(self, run_on_each, where):
        async def main():
            waiter = TaskWaiter(NOBODY)
            turn = asyncio.ensure_future(waiter.turn(60.0))
            await asyncio.sleep(0)
            turn.cancel()
            if where == "same":
                assert not waiter.set("connection")
            else:
                assert not await asyncio.to_thread(waiter.set, "connection")
            assert not waiter.settled
            with pytest.raises(asyncio.CancelledError):
                await turn

        run_on_each(main)

    @pytest.mark.parametrize("where", ["same", "other"])
    def test_one_of_a_closed_loop_refuses(self, run_on_each, where):
        async def main():
            return TaskWaiter(NOBODY)

        waiter = run_on_each(main)
        accepts = waiter.set if where == "same" else lambda c: Call(waiter.set, c).result()
        assert not accepts("connection")
        assert not waiter.settled
        refuses = waiter.fail if where == "same" else lambda e: Call(waiter.fail, e).result()
        assert not refuses(ValueError())


class TestOrder:
    def test_threads_and_tasks_stand_in_one_line(self, make_pool, run_on_each):
        pool = make_pool(max_size=1)
        served: list[str] = []

        def by_thread(name: str) -> None:
            with pool.lease():
                served.append(name)

        async def by_task(name: str) -> None:
            lease = await plain(pool)
            served.append(name)
            pool.release(lease)

        async def main():
            lease = await plain(pool)
            work: list[Any] = []
            for number in range(6):
                if number % 2:
                    work.append(await asyncio.to_thread(queue_up, pool, by_thread, f"{number}"))
                else:
                    work.append(await queued(pool, by_task(f"{number}")))
            pool.release(lease)
            for each in work:
                if isinstance(each, Call):
                    await asyncio.to_thread(each.result)
                else:
                    await each

        run_on_each(main)
        assert served == ["0", "1", "2", "3", "4", "5"]
        assert_quiet(pool)

    def test_two_loops_in_two_threads_share_a_pool(self, make_pool, run_on_each):
        pool = make_pool(max_size=2)
        pids: set[int] = set()

        async def one() -> None:
            for _ in range(20):
                lease = await plain(pool)
                await asyncio.sleep(0)
                pids.add(lease.connection.info.backend_pid)
                pool.release(lease)

        async def main():
            await asyncio.gather(*(one() for _ in range(8)))

        calls = [Call(run_on_each, main) for _ in range(2)]
        for call in calls:
            call.result(60.0)
        assert len(pids) <= 2
        assert pool.stats().acquired == 320
        assert_quiet(pool)

    def test_a_newcomer_does_not_overtake(self, make_pool, run_on_each):
        pool = make_pool(max_size=1)

        async def main():
            lease = await plain(pool)
            waiter = await queued(pool, plain(pool))
            pool.release(lease)  # to the one who waits, though it has not run yet
            with pytest.raises(PoolTimeout):
                await plain(pool, 0)
            pool.release(await waiter)

        run_on_each(main)


class TestRefusals:
    def test_the_time_is_up(self, make_pool, run_on_each):
        pool = make_pool(max_size=1, name="short")

        async def main():
            lease = await plain(pool)
            with pytest.raises(PoolTimeout) as caught:
                await plain(pool, 0.05)
            pool.release(lease)
            return caught.value

        error = run_on_each(main)
        assert "pool 'short': no connection within 0.05 s (used 1/1" in str(error)
        assert error.waited >= 0.049  # uvloop counts whole milliseconds
        assert pool.stats().timeouts == 1
        assert_quiet(pool)

    def test_too_many_wait(self, make_pool, run_on_each):
        pool = make_pool(max_size=1, max_waiting=1)

        async def main():
            lease = await plain(pool)
            waiter = await queued(pool, plain(pool))
            with pytest.raises(TooManyWaiters):
                await plain(pool)
            pool.release(lease)
            pool.release(await waiter)

        run_on_each(main)

    def test_a_pause(self, make_pool, run_on_each):
        pool = make_pool(max_size=1)

        async def main():
            pool.pause(60.0)
            with pytest.raises(PoolPaused):
                await plain(pool, 0.05)
            waiter = await queued(pool, plain(pool))
            await asyncio.to_thread(pool.resume)
            pool.release(await waiter)

        run_on_each(main)

    def test_a_close(self, make_pool, run_on_each):
        pool = make_pool(max_size=1)

        async def main():
            lease = await plain(pool)
            waiter = await queued(pool, plain(pool))
            await asyncio.to_thread(pool.close)
            with pytest.raises(PoolClosed):
                await waiter
            pool.release(lease)

        run_on_each(main)

    def test_tasks_of_one_thread_do_not_wait_for_each_other(self, make_pool, run_on_each):
        pool = make_pool(max_size=2)

        async def holder(go: asyncio.Event) -> None:
            lease = await plain(pool)
            lease.in_block = True
            await go.wait()
            pool.release(lease)

        async def main():
            go = asyncio.Event()
            holders = [asyncio.ensure_future(holder(go)) for _ in range(2)]
            await asyncio.to_thread(wait_until, lambda: pool.stats().used == 2)
            waiter = await queued(pool, plain(pool))
            go.set()
            pool.release(await waiter)
            await asyncio.gather(*holders)

        run_on_each(main)

    def test_who_holds_nothing_looks_at_no_lease_of_the_others(
        self, make_pool, run_on_each, monkeypatch
    ):
        """They are all of its thread; to look at each takes longer, the larger the pool is."""
        pool = make_pool(max_size=5)
        looked: list[Lease] = []
        real = deadlock._stuck

        def stuck(lease: Lease, holders: set[object]) -> bool:
            looked.append(lease)
            return real(lease, holders)

        async def holder(go: asyncio.Event, more: int) -> None:
            leases = [await plain(pool)]
            leases[0].in_block = True
            await go.wait()
            leases += [await plain(pool) for _ in range(more)]
            for lease in leases:
                pool.release(lease)

        async def main():
            looked.clear()
            monkeypatch.setattr(deadlock, "_stuck", stuck)
            go, first = asyncio.Event(), asyncio.Event()
            holders = [asyncio.ensure_future(holder(go, 0)) for _ in range(4)]
            holders.append(asyncio.ensure_future(holder(first, 1)))
            await asyncio.to_thread(wait_until, lambda: pool.stats().used == 5)
            waiter = await queued(pool, plain(pool))
            assert looked == []
            first.set()  # who holds one is looked at
            await until(lambda: pool.stats().waiters == 2)
            assert looked
            go.set()
            pool.release(await waiter)
            await asyncio.gather(*holders)

        run_on_each(main)

    def test_the_last_of_the_tasks_that_hold_and_want_more_is_told(self, make_pool, run_on_each):
        pool = make_pool(max_size=2)
        told: list[str] = []

        async def greedy(name: str) -> None:
            lease = await plain(pool)
            lease.in_block = True
            try:
                both.append(name)
                await until(lambda: len(both) == 2)
                pool.release(await plain(pool))
            except PoolDeadlock as error:
                told.append(str(error))
            finally:
                pool.release(lease)

        both: list[str] = []

        async def main():
            await asyncio.gather(greedy("a"), greedy("b"))

        run_on_each(main)
        assert len(told) == 1
        assert "held by tasks that wait" in told[0]
        assert_quiet(pool)


class TestCancelled:
    def test_in_the_queue_it_leaves_at_once(self, make_pool, run_on_each):
        pool = make_pool(max_size=1)

        async def main():
            lease = await plain(pool)
            waiters = [await queued(pool, plain(pool)) for _ in range(3)]
            waiters[1].cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiters[1]
            assert pool.stats().waiters == 2
            pool.release(lease)
            pool.release(await waiters[0])
            pool.release(await waiters[2])

        run_on_each(main)
        assert pool.stats().timeouts == 0
        assert_quiet(pool)

    @pytest.mark.parametrize("by", ["same", "other"])
    def test_in_the_instant_of_the_hand_over_it_goes_to_the_next(self, make_pool, run_on_each, by):
        pool = make_pool(max_size=1)

        async def main():
            for _ in range(50):
                lease = await plain(pool)
                first = await queued(pool, plain(pool))
                second = await queued(pool, plain(pool))
                if by == "same":
                    pool.release(lease)
                else:
                    thread = threading.Thread(target=pool.release, args=(lease,))
                    thread.start()
                    thread.join()  # it has been handed over, and the loop has not run since
                first.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await first
                pool.release(await second)

        run_on_each(main)
        assert pool.stats().connects == 1
        assert_quiet(pool)

    def test_in_the_probe_the_slot_is_free(self, make_pool, run_on_each, monkeypatch):
        pool = make_pool(max_size=1, bypass=0.0)

        async def main():
            pool.release(await plain(pool))
            begun = asyncio.Event()
            real = waiting.wait_async

            async def slow(*args, **kwargs):
                begun.set()
                await asyncio.sleep(60.0)
                return await real(*args, **kwargs)

            monkeypatch.setattr(waiting, "wait_async", slow)
            task = asyncio.ensure_future(plain(pool))
            await begun.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            monkeypatch.setattr(waiting, "wait_async", real)
            pool.release(await plain(pool, 10.0))

        run_on_each(main)
        assert_quiet(pool)

    def test_in_the_users_check_the_connection_comes_home(self, make_pool, run_on_each):
        entered, go = threading.Event(), threading.Event()
        threads: list[str] = []

        def check(connection):
            threads.append(threading.current_thread().name)
            entered.set()
            assert go.wait(10.0)
            connection.execute("SELECT 1")
            connection.rollback()

        pool = make_pool(max_size=1, check=check)

        async def main():
            task = asyncio.ensure_future(plain(pool))
            await asyncio.to_thread(entered.wait, 10.0)
            task.cancel()
            go.set()
            with pytest.raises(asyncio.CancelledError):
                await task
            pool.release(await plain(pool))

        run_on_each(main)
        assert threading.main_thread().name not in threads
        assert_quiet(pool)


class TestOrphans:
    def test_a_lease_that_was_dropped_reaches_a_task_that_waits(self, make_pool, run_on_each):
        pool = make_pool(max_size=1)

        async def main():
            lease = await plain(pool)
            waiter = await queued(pool, plain(pool))
            del lease
            with pytest.warns(match="dropped without being released"):
                pool.release(await asyncio.wait_for(waiter, 10.0))

        run_on_each(main)
        assert_quiet(pool)

    def test_a_loop_without_waiters_has_no_round(self, make_pool, run_on_each):
        pool = make_pool(max_size=1)

        async def main():
            lease = await plain(pool)
            waiter = await queued(pool, plain(pool))
            assert len(pool._rounds) == 1
            pool.release(lease)
            pool.release(await waiter)
            assert not pool._rounds

        run_on_each(main)

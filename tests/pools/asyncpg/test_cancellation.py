"""Cancellation is the normal case: at every await, under load, and as a loop ends."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Awaitable, Callable, Generator
from functools import partial
from typing import Any

import asyncpg
import pytest

from django_poolkit.pools.asyncpg import release
from django_poolkit.pools.asyncpg.physical import Physical
from django_poolkit.pools.asyncpg.pool import AsyncpgPool
from django_poolkit.testing import Node
from tests.pools.asyncpg.support import (
    MakePool,
    Run,
    assert_quiet,
    gather,
    pid,
    queue_up,
    running,
    until,
)


class CancelledAt:
    """Awaits something, and has its task cancelled as it is suspended for the n-th time."""

    def __init__(self, work: Awaitable[Any], number: int) -> None:
        self.work = work
        self.left = number

    def __await__(self) -> Generator[Any, Any, Any]:
        inner = self.work.__await__()
        task = asyncio.current_task()
        assert task is not None
        value: Any = None
        error: BaseException | None = None
        while True:
            try:
                found = inner.throw(error) if error is not None else inner.send(value)
            except StopIteration as end:
                return end.value
            self.left -= 1
            if self.left == 0:
                asyncio.get_running_loop().call_soon(task.cancel)
            value, error = None, None
            try:
                value = yield found
            except BaseException as thrown:
                error = thrown


async def cancel_everywhere(story: Callable[[], Awaitable[Any]], after: Callable[[], Any]) -> int:
    """Run a story again and again, cancelled one await later each time; return how many."""
    for number in range(1, 200):

        async def once(number: int = number) -> None:
            await CancelledAt(story(), number)

        task = asyncio.create_task(once())
        (outcome,) = await gather(task)
        await after()
        if outcome is None:
            return number - 1
        assert isinstance(outcome, asyncio.CancelledError), repr(outcome)
    raise AssertionError("it does not end")


@pytest.mark.parametrize("kind", ["new", "idle", "silent", "queued", "dirty", "transaction"])
def test_a_lease_may_be_cancelled_at_each_await(
    make: MakePool, run_on_each: Run, primary: Node, service: str, kind: str
) -> None:
    async def main() -> None:
        pool = make(max_size=2)

        async def story() -> None:
            if kind == "new":
                pool.recycle()
                await asyncio.sleep(0)
            elif kind == "silent":
                for physical in (await pool.line()).idle:
                    physical.used_at -= 1.0
            elif kind == "queued":
                holders = [await pool.acquire() for _ in range(2)]
                for holder in holders:
                    soon = partial(asyncio.ensure_future, holder.release())
                    asyncio.get_running_loop().call_later(0.001, soon)
                del holders, holder
            async with pool.lease(timeout=5.0) as connection:
                if kind == "dirty":
                    await connection.execute("SET search_path TO nowhere")
                elif kind == "transaction":
                    async with connection.transaction():
                        await connection.execute("SELECT 1")
                else:
                    await connection.fetchval("SELECT 1")

        async def after() -> None:
            await until(lambda: not pool.stats().used and not pool.stats().connecting)
            async with pool.lease() as connection:
                assert await connection.fetchval("SHOW search_path") != "nowhere"
                assert not connection.is_in_transaction()
            assert_quiet(pool)

        await story()
        await after()
        awaits = await cancel_everywhere(story, after)
        assert awaits >= 1
        await until(lambda: len(primary.sessions(service)) == pool.stats().idle)
        assert running(primary, service) == []

    # What the story leaves to others may be cut off with it.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *_, **__: None)
        run_on_each(main())


def first_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the first request to cancel overtake its statement, as far as the server can tell."""
    send, asked = asyncpg.Connection._cancel_current_command, []

    def ask(self: Any, waiter: asyncio.Future[None], *rest: Any) -> None:
        asked.append(waiter)
        if len(asked) == 1:
            waiter.set_result(None)  # the server has hung up, as it always does
        else:
            send(self, waiter, *rest)

    monkeypatch.setattr(asyncpg.Connection, "_cancel_current_command", ask)


@pytest.mark.parametrize("lost", [False, True], ids=["heard", "lost"])
@pytest.mark.parametrize("verb", ["execute", "prepared"])
@pytest.mark.parametrize(
    "end", ["release", "discard", "end_and_terminate", "kill", "cancelled and released",
            "cancelled and discarded", "cancelled and spoiled"],
)  # fmt: skip
def test_nothing_runs_on_however_its_lease_ends(
    make: MakePool, run: Run, primary: Node, service: str, end: str, verb: str, lost: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    async def main() -> None:
        pool = make(max_size=1)
        lease = await pool.acquire()
        if end == "cancelled and spoiled":
            await lease.connection.execute("PREPARE mine AS SELECT 1")
        if verb == "prepared":
            statement = await lease.connection.prepare("SELECT pg_sleep(60)")
            work = asyncio.create_task(statement.fetch())
        else:
            work = asyncio.create_task(lease.connection.execute("SELECT pg_sleep(60)"))
        await until(lambda: running(primary, service) == ["SELECT pg_sleep(60)"])
        if lost:
            first_is_lost(monkeypatch)
        if end.startswith("cancelled"):
            work.cancel()
            await gather(work)
        if end in ("cancelled and discarded", "discard"):
            await lease.discard()
        elif end == "end_and_terminate":
            lease.line.end_and_terminate(lease, "discarded")
        elif end == "kill":
            assert pool.kill(pool.leases()[0].key)
        else:
            await lease.release()
        (outcome,) = await gather(work)
        assert isinstance(outcome, BaseException)
        await until(lambda: running(primary, service) == [], "the statement goes on")
        if end == "kill":
            await lease.release()
        assert await pid(pool)
        assert_quiet(pool)

    run(main())


@pytest.mark.parametrize("turns", range(6))
@pytest.mark.parametrize("end", ["release", "discard"])
def test_nothing_runs_on_that_is_killed_as_its_owner_goes(
    make: MakePool, run_on_each: Run, primary: Node, service: str, end: str, turns: int
) -> None:
    async def main() -> None:
        pool = make(max_size=1)
        lease = await pool.acquire()
        work = asyncio.create_task(lease.connection.execute("SELECT pg_sleep(60)"))
        await until(lambda: running(primary, service) == ["SELECT pg_sleep(60)"])
        assert pool.kill(pool.leases()[0].key)
        for _ in range(turns):
            await asyncio.sleep(0)
        work.cancel()
        await getattr(lease, end)()
        await gather(work)
        await until(lambda: running(primary, service) == [], "the statement goes on")
        assert await pid(pool)
        assert_quiet(pool)

    run_on_each(main())


def test_nothing_runs_on_of_a_reset_that_takes_too_long(
    make: MakePool, run: Run, primary: Node, service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(release, "_TIMEOUT", 0.2)

    async def reset(connection: Any) -> None:
        await connection.execute("SELECT pg_sleep(60)")

    async def main() -> None:
        pool = make(max_size=1, reset=reset)
        lease = await pool.acquire()
        await lease.release()
        assert running(primary, service) == []
        assert pool.stats().closed == {"reset_failed": 1}

    run(main())


@pytest.mark.parametrize("end", ["release", "discard", "kill"])
def test_nothing_runs_on_that_has_only_just_begun(
    make: MakePool, run: Run, primary: Node, service: str, end: str
) -> None:
    async def main() -> None:
        pool, chance = make(max_size=4), random.Random(7)

        async def once() -> None:
            lease = await pool.acquire()
            statement = await lease.connection.prepare("SELECT pg_sleep(60)")
            verbs = [statement.fetch, partial(lease.connection.execute, "SELECT pg_sleep(60)")]
            work = asyncio.create_task(chance.choice(verbs)())
            await asyncio.sleep(chance.choice([0, chance.uniform(0, 0.004)]))
            if end == "kill":
                pool.kill(lease.key)
            elif chance.random() < 0.5:
                work.cancel()
                await gather(work)
            if end == "discard":
                await lease.discard()
            elif end == "release":
                await lease.release()
            (outcome,) = await gather(work)
            assert isinstance(outcome, BaseException)
            if end == "kill":
                await lease.release()

        for _ in range(25):
            await asyncio.gather(*(once() for _ in range(4)))
        await until(lambda: running(primary, service) == [], "a statement goes on")
        assert_quiet(pool)

    run(main())


def test_a_connection_handed_over_as_its_waiter_is_cancelled_goes_to_the_next(
    make: MakePool, run_on_each: Run
) -> None:
    async def main() -> None:
        pool = make(max_size=1)
        for _ in range(200):
            lease = await pool.acquire()
            first, second = await queue_up(pool), await queue_up(pool)
            await lease.release()  # hands over to the first, who has had no turn yet
            first.cancel()
            outcomes = await gather(first, second)
            assert isinstance(outcomes[0], asyncio.CancelledError)
            await outcomes[1].release()
        assert pool.stats().connects == 1
        assert_quiet(pool)

    run_on_each(main())


def test_a_timeout_as_a_connection_arrives_has_one_loser(make: MakePool, run: Run) -> None:
    async def main() -> None:
        pool, outcomes = make(max_size=1), {"served": 0, "late": 0}
        for _ in range(600):
            lease = await pool.acquire()

            async def wait() -> None:
                try:
                    async with pool.lease(timeout=0.0002):
                        outcomes["served"] += 1
                except TimeoutError:
                    outcomes["late"] += 1

            task = asyncio.create_task(wait())
            await asyncio.sleep(random.uniform(0, 0.0006))
            await lease.release()
            await task
            stats = pool.stats()
            assert (stats.size, stats.idle, stats.waiters) == (1, 1, 0)
        assert min(outcomes.values()) > 10, outcomes
        assert_quiet(pool)

    run(main())


def test_a_cancelled_waiter_does_not_cancel_the_connect(make: MakePool, run: Run) -> None:
    async def main() -> None:
        gate = asyncio.Event()

        async def connect(**options: Any) -> Any:
            await gate.wait()
            return await asyncpg.connect(**options)

        pool = make(connect=connect)
        waiting = await queue_up(pool)
        await until(lambda: pool.stats().connecting == 1)
        waiting.cancel()
        await gather(waiting)
        gate.set()
        await until(lambda: pool.stats().idle == 1)
        assert_quiet(pool)

    run(main())


def test_a_probe_that_is_cancelled_costs_the_connection(
    make: MakePool, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        gate = asyncio.Event()

        async def answers(self: Physical, timeout: float) -> bool:
            gate.set()
            await asyncio.Event().wait()
            return True

        pool = make(max_size=1)
        first = await pid(pool)
        (await pool.line()).idle[0].used_at -= 1.0
        with monkeypatch.context() as patch:
            patch.setattr(Physical, "answers", answers)
            task = asyncio.create_task(pool.acquire())
            await gate.wait()
            task.cancel()
            await gather(task)
        assert pool.stats().closed == {"discarded": 1}
        assert await pid(pool) != first
        assert_quiet(pool)

    run(main())


def test_a_cancelled_release_comes_to_its_end(make: MakePool, run_on_each: Run) -> None:
    async def main() -> None:
        entered, gate = asyncio.Event(), asyncio.Event()

        async def reset(connection: Any) -> None:
            entered.set()
            await gate.wait()

        pool = make(max_size=1, reset=reset)
        lease = await pool.acquire()
        task = asyncio.create_task(lease.release())
        await entered.wait()
        task.cancel()
        (outcome,) = await gather(task)
        assert isinstance(outcome, asyncio.CancelledError)
        assert (pool.stats().used, pool.stats().idle) == (1, 0)
        waiting = await queue_up(pool)
        gate.set()
        await (await waiting).release()
        assert pool.stats().connects == 1
        assert_quiet(pool)

    run_on_each(main())


def test_a_cancelled_query_is_cancelled_on_the_server_and_the_connection_kept(
    make: MakePool, run_on_each: Run, primary: Node, service: str
) -> None:
    async def main() -> None:
        pool = make(max_size=1)
        first = await pid(pool)

        async def query() -> None:
            async with pool.lease() as connection:
                await connection.execute("SELECT pg_sleep(60)")

        task = asyncio.create_task(query())
        await until(lambda: running(primary, service))
        task.cancel()
        await gather(task)
        assert running(primary, service) == []
        assert await pid(pool) == first
        assert_quiet(pool)

    run_on_each(main())


def test_a_thousand_random_cancellations_under_load(
    make: MakePool, run_on_each: Run, primary: Node, service: str
) -> None:
    async def main() -> None:
        pool, dice, wrong = make(max_size=5), random.Random(4711), []

        async def work(number: int) -> None:
            async with pool.lease() as connection:
                if number % 7 == 0:
                    await connection.execute(f"SET application_name TO 'of {number}'")
                async with connection.transaction():
                    found = await connection.fetchval(
                        "SELECT $1::int FROM pg_sleep($2)", number, dice.choice([0, 0, 0.002])
                    )
                if found != number:
                    wrong.append((number, found))

        tasks = []
        for number in range(2000):
            task = asyncio.create_task(work(number))
            tasks.append(task)
            if number % 2:
                # On a quick machine most are done before; one in ten is cancelled as it begins.
                delay = 0.0 if number % 10 == 1 else dice.uniform(0, 0.05)
                asyncio.get_running_loop().call_later(delay, task.cancel)
            if number % 40 == 0:
                await asyncio.sleep(0.01)
        outcomes = await gather(*tasks)
        assert wrong == []
        others = [o for o in outcomes if not (o is None or isinstance(o, asyncio.CancelledError))]
        assert others == []
        assert sum(isinstance(each, asyncio.CancelledError) for each in outcomes) > 100
        await until(lambda: not pool.stats().used and not pool.stats().connecting)
        assert running(primary, service) == []
        names = set()
        for _ in range(5):
            async with pool.lease() as connection:
                names.add(await connection.fetchval("SHOW application_name"))
        assert names == {service}
        assert pool.stats().leaks == 0
        assert_quiet(pool)

    run_on_each(main())


def test_the_end_of_a_loop_leaves_no_query_and_no_session(
    make: MakePool, run_on_each: Run, primary: Node, service: str
) -> None:
    pool = make(max_size=3)

    async def main() -> None:
        async def query() -> None:
            async with pool.lease() as connection:
                await connection.execute("SELECT pg_sleep(60)")

        tasks = [asyncio.create_task(query()) for _ in range(6)]
        await until(lambda: len(running(primary, service)) == 3)
        del tasks[3:]

    run_on_each(main())
    assert_sessions_end(primary, service)
    assert pool.lines == {}
    run_on_each(_once(pool))  # and the next loop begins anew
    assert_quiet(pool)


async def _once(pool: AsyncpgPool) -> None:
    assert await pid(pool)
    await pool.close()


def assert_sessions_end(primary: Node, service: str) -> None:
    from django_poolkit.testing.waiting import wait_until

    wait_until(lambda: not primary.sessions(service), message="sessions are left")


def test_a_loop_that_was_just_closed_costs_no_slot(
    make: MakePool, primary: Node, service: str
) -> None:
    pool = make(max_size=2)

    async def take() -> Any:
        await (await pool.acquire()).release()
        return await pool.acquire(), await pool.acquire()

    loop = asyncio.new_event_loop()
    leases = loop.run_until_complete(take())
    loop.close()
    stats = pool.stats()
    assert (stats.size, stats.used, stats.closed) == (0, 0, {"loop_closed": 2})
    assert_sessions_end(primary, service)
    assert all(lease.released for lease in leases)
    asyncio.run(_once(pool))
    assert_quiet(pool)


def test_two_loops_in_two_threads_do_not_mix(make: MakePool, primary: Node, service: str) -> None:
    pool = make(max_size=3)
    seen: dict[str, set[int]] = {"a": set(), "b": set()}
    barrier = threading.Barrier(2, timeout=20)
    errors: list[BaseException] = []

    async def main(name: str) -> None:
        async def one(number: int) -> None:
            async with pool.lease() as connection:
                seen[name].add(connection.get_server_pid())
                assert await connection.fetchval("SELECT $1::int", number) == number

        await asyncio.gather(*(one(number) for number in range(300)))
        await asyncio.to_thread(barrier.wait)
        assert pool.stats().size <= pool.stats().max_size == 6
        await asyncio.to_thread(barrier.wait)

    def serve(name: str) -> None:
        try:
            asyncio.run(main(name))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=serve, args=(name,)) for name in seen]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert seen["a"]
    assert seen["b"]
    assert not seen["a"] & seen["b"]
    assert pool.stats().acquired == 600
    assert_sessions_end(primary, service)
    assert_quiet(pool)

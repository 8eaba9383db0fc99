"""aatomic(): one transaction for a block of async code, whatever becomes of its tasks."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.db import close_old_connections, connections, transaction
from django.db.models.signals import post_save
from django.db.transaction import TransactionManagementError

from django_poolkit.aio import aatomic, bridged
from django_poolkit.aio.turns import TurnDeadlock, Turns
from tests.aio.support import Orphan, Pooled, Run, acreate, apid, aslow, count
from tests.app.models import Item
from tests.backends.transaction_mode.support import (
    PATIENCE,
    Broken,
    Server,
    backend,
    connection,
    create,
    scalar,
)
from tests.pools.postgres.tasks import until

pytestmark = pytest.mark.core


def test_a_block_commits_or_rolls_back_whole(
    pooled: Pooled, server: Server, run_on_each: Run
) -> None:
    pooled()

    async def main() -> None:
        async with aatomic():
            await acreate("kept")
            assert server.names == []
        with pytest.raises(Broken):
            async with aatomic():
                await acreate("lost")
                raise Broken
        assert server.names == ["kept"]
        await bridged(Item.objects.all().delete)()

    run_on_each(main)


def test_it_decorates_coroutine_functions(pooled: Pooled, server: Server, run_on_each: Run) -> None:
    pooled()

    @aatomic
    async def bare(name: str) -> str:
        await acreate(name)
        return name

    @aatomic(durable=True)
    async def broken() -> None:
        await acreate("lost")
        await apid()
        raise Broken

    async def main() -> None:
        both = await asyncio.gather(bare("one"), bare("two"))
        assert {*both} == {"one", "two"}
        with pytest.raises(Broken):
            await broken()
        assert server.names == ["one", "two"]
        await bridged(Item.objects.all().delete)()

    run_on_each(main)
    with pytest.raises(TypeError, match="decorates coroutine functions"):
        aatomic(create)  # type: ignore[arg-type]


def test_children_of_a_block_share_its_connection(pooled: Pooled, run_on_each: Run) -> None:
    pool = pooled(max_size=2)

    async def main() -> None:
        async with asyncio.timeout(PATIENCE), aatomic():
            pids = await asyncio.gather(*(apid() for _ in range(10)))
            assert len({*pids, await apid()}) == 1
            assert pool.stats().used == 1

    run_on_each(main)


def test_blocks_of_siblings_keep_their_savepoints_apart(
    pooled: Pooled, server: Server, run_on_each: Run
) -> None:
    pooled(max_size=1)

    async def child(number: int) -> None:
        async with aatomic():
            await acreate(f"child{number}")
            await asyncio.sleep(0)
            await acreate(f"child{number} again")
            if number % 2:
                raise Broken

    async def main() -> None:
        async with asyncio.timeout(PATIENCE), aatomic():
            ends = await asyncio.gather(*map(child, range(6)), return_exceptions=True)
            assert [type(end) for end in ends] == [type(None), Broken] * 3
        assert server.names == sorted(
            f"child{number}{more}" for number in (0, 2, 4) for more in ("", " again")
        )
        await bridged(Item.objects.all().delete)()

    run_on_each(main)


def test_threads_that_it_reaches_are_in_the_transaction(pooled: Pooled, run_on_each: Run) -> None:
    pooled(max_size=1)

    async def main() -> None:
        async with asyncio.timeout(PATIENCE), aatomic():
            await acreate("uncommitted")
            pid = await apid()
            for reached in (sync_to_async, lambda f: sync_to_async(f, thread_sensitive=False)):
                assert await reached(backend)() == pid
                assert await reached(count)() == 1
            assert await asyncio.to_thread(backend) == pid
            await asyncio.to_thread(create, "theirs")
            transaction.set_rollback(True)
        assert await bridged(count)() == 0

    run_on_each(main)


def test_the_end_of_a_request_in_its_thread_does_not_end_it(
    pooled: Pooled, server: Server, run_on_each: Run
) -> None:
    pooled()

    async def main() -> None:
        async with aatomic():
            await acreate("kept")
            await sync_to_async(close_old_connections)()
            await bridged(close_old_connections)()
            await acreate("kept too")
        assert server.names == ["kept", "kept too"]
        await bridged(Item.objects.all().delete)()

    run_on_each(main)


def test_a_task_that_goes_on_after_the_block_has_no_part_in_it(
    pooled: Pooled, server: Server, run_on_each: Run
) -> None:
    pooled()

    async def main() -> None:
        go, seen = asyncio.Event(), asyncio.Event()

        async def later() -> None:
            await acreate("first")
            seen.set()
            await go.wait()
            await acreate("second")

        with pytest.raises(Broken):
            async with aatomic():
                task = asyncio.create_task(later())
                await acreate("lost")
                await seen.wait()
                raise Broken
        assert server.names == []
        go.set()
        await task
        assert server.names == ["second"]
        await bridged(Item.objects.all().delete)()

    run_on_each(main)


def test_a_timeout_that_is_caught_within_the_block_is_told_at_its_end(
    pooled: Pooled, server: Server, run_on_each: Run
) -> None:
    pool = pooled()

    async def main() -> None:
        with pytest.raises(TransactionManagementError, match="cancelled"):
            async with aatomic():
                await acreate("lost")
                try:
                    async with asyncio.timeout(0.2):
                        await aslow()
                except TimeoutError:
                    pass
        assert server.names == []
        assert "active" not in server.backends.values()
        assert await bridged(count)() == 0
        assert pool.stats().used == 0

    run_on_each(main)


def test_a_failure_that_is_caught_in_raw_code_is_told_as_well(
    pooled: Pooled, server: Server, run_on_each: Run
) -> None:
    pooled()

    def fails() -> None:
        create("lost")
        with pytest.raises(Exception, match="division by zero"):
            scalar("SELECT 1 / 0")

    async def main() -> None:
        with pytest.raises(TransactionManagementError, match="rolled back"):
            async with aatomic():
                await bridged(fails)()
        assert server.names == []

    run_on_each(main)


def test_a_block_of_its_own_around_the_timeout_saves_the_outer_one(
    pooled: Pooled, server: Server, run_on_each: Run
) -> None:
    pooled()

    async def main() -> None:
        async with aatomic():
            await acreate("outer")
            try:
                async with asyncio.timeout(0.2), aatomic():
                    await acreate("inner")
                    await aslow()
            except TimeoutError:
                pass
            await acreate("after")
        assert server.names == ["after", "outer"]
        await bridged(Item.objects.all().delete)()

    run_on_each(main)


def test_a_durable_block_is_not_nested(pooled: Pooled, run_on_each: Run) -> None:
    pool = pooled(max_size=1)

    async def main() -> None:
        async with aatomic():
            with pytest.raises(RuntimeError, match="durable"):
                async with aatomic(durable=True):
                    raise AssertionError
            async with aatomic(), aatomic(savepoint=False):
                await apid()  # the refused block has passed on its turn
        assert pool.stats().used == 0

    run_on_each(main)


def test_callbacks_run_in_order_after_the_commit(
    pooled: Pooled, server: Server, run_on_each: Run
) -> None:
    pooled()
    told: list[tuple[str, list[str]]] = []

    async def main() -> None:
        told.clear()

        def tell(name: str) -> Callable[[], None]:
            return lambda: told.append((name, server.names))

        async def later() -> None:
            told.append(("async", await bridged(lambda: [i.name for i in Item.objects.all()])()))

        async with aatomic():
            transaction.on_commit(tell("first"))
            transaction.on_commit(later)
            with pytest.raises(Broken):
                async with aatomic():
                    transaction.on_commit(tell("of the savepoint"))
                    raise Broken
            await acreate("kept")
            await sync_to_async(transaction.on_commit)(tell("of a thread"))
            await bridged(transaction.on_commit)(tell("last"))
            assert told == []
        assert told == [(name, ["kept"]) for name in ("first", "async", "of a thread", "last")]
        await bridged(Item.objects.all().delete)()

    run_on_each(main)


SLOW_COMMIT = """
    CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_sleep(0.3); RETURN NULL; END $$;
    CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON app_item
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION slow();
"""


@pytest.fixture
def slow_commit(pooled: Pooled, server: Server) -> Iterator[None]:
    """Have the COMMIT of a new row take a while."""
    server.run(SLOW_COMMIT)
    yield
    server.run("DROP FUNCTION slow CASCADE")


@pytest.mark.parametrize("asynchronous", [True, False], ids=["aatomic", "atomic"])
def test_a_cancellation_waits_for_the_commit_and_its_callbacks(
    pooled: Pooled,
    server: Server,
    slow_commit: None,
    session_name: str,
    run_on_each: Run,
    asynchronous: bool,
) -> None:
    pool = pooled(max_size=2)
    ran: list[str] = []

    async def hook() -> None:
        ran.append(f"async, of {await bridged(count)()}")

    def work() -> None:
        create("row")
        transaction.on_commit(lambda: ran.append(f"sync, of {count()}"))
        transaction.on_commit(hook)

    async def block() -> None:
        if asynchronous:
            async with aatomic():
                await bridged(work)()
        else:
            await bridged(transaction.atomic(work))()

    async def main() -> None:
        ran.clear()
        task = asyncio.create_task(block())
        commits = (
            "SELECT count(*) FROM pg_stat_activity WHERE query = 'COMMIT' AND state = 'active'"
        )
        await until(lambda: server.ask(commits + " AND application_name = %s", session_name) == 1)
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ran == ["sync, of 1", "async, of 1"]
        assert server.names == ["row"]
        assert pool.stats().used == 0
        await bridged(Item.objects.all().delete)()

    run_on_each(main)


def test_wherever_a_block_is_cancelled_it_is_whole(
    pooled: Pooled, server: Server, run_on_each: Run
) -> None:
    pool = pooled(max_size=2)
    chance = random.Random(11)

    async def attempt(number: int, ran: list[int]) -> None:
        async with aatomic():
            await acreate(f"row{number:03}")
            transaction.on_commit(lambda: ran.append(number))
            async with aatomic():
                await acreate(f"row{number:03} too")

    async def main() -> None:
        ran: list[int] = []
        for number in range(60):
            task = asyncio.create_task(attempt(number, ran))
            await asyncio.sleep(chance.uniform(0, 0.03))
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        expected = sorted(f"row{number:03}{more}" for number in ran for more in ("", " too"))
        assert server.names == expected
        assert pool.stats().used == 0
        assert {*server.backends.values()} <= {"idle"}
        await bridged(Item.objects.all().delete)()

    run_on_each(main)


def test_sync_code_in_a_block_lends_it_to_async_code_that_it_calls(pooled: Pooled) -> None:
    pooled(max_size=1)

    async def look() -> tuple[int, int]:
        return await apid(), await bridged(count)()

    with transaction.atomic():
        create("uncommitted")
        assert async_to_sync(look)() == (backend(), 1)
        transaction.set_rollback(True)
    connection.close()


def test_async_receivers_see_the_transaction_of_who_sends(
    pooled: Pooled, server: Server, run_on_each: Run
) -> None:
    pooled(max_size=1)
    seen: list[tuple[int, int]] = []

    async def receiver(instance: Item, **kwargs: Any) -> None:
        async with asyncio.TaskGroup() as tasks:
            found = [tasks.create_task(bridged(count)()) for _ in range(3)]
        seen.append((await apid(), found[-1].result()))
        if instance.name == "first":
            async with aatomic():
                await acreate("second")

    def work() -> int:
        with transaction.atomic():
            create("first")
            return backend()

    async def main() -> None:
        seen.clear()
        async with asyncio.timeout(PATIENCE):
            pid = await bridged(work)()
            assert seen == [(pid, 1), (pid, 2)] or seen == [(pid, 2), (pid, 1)]
            seen.clear()
            async with aatomic():
                await bridged(work)()
                pid = await apid()
            assert {each for each, _ in seen} == {pid}
        assert server.names == ["first", "first", "second", "second"]
        await bridged(Item.objects.all().delete)()

    post_save.connect(receiver, sender=Item)
    try:
        run_on_each(main)
    finally:
        post_save.disconnect(receiver, sender=Item)


def test_a_block_waits_for_a_call_that_is_under_way(
    pooled: Pooled, server: Server, run_on_each: Run
) -> None:
    pooled()
    begun = threading.Event()

    def work() -> None:
        begun.set()
        for number in range(5):
            create(f"child{number}")

    async def main() -> None:
        begun.clear()
        async with aatomic():
            task = asyncio.create_task(bridged(work)())
            await until(begun.is_set)
        await task
        assert server.names == [f"child{number}" for number in range(5)]
        await bridged(Item.objects.all().delete)()

    run_on_each(main)


def test_a_cancelled_end_does_not_wait_for_a_block_that_goes_on(
    pooled: Pooled, server: Server, run_on_each: Run
) -> None:
    pool = pooled(max_size=1)

    async def main() -> None:
        orphan = Orphan()
        task = asyncio.create_task(orphan.block())
        await orphan.leaves.wait()  # from here on it waits for the other one
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert server.names == []
        assert await bridged(count)() == 0  # on the pool's only slot
        assert isinstance(await orphan.end(), TransactionManagementError)
        assert server.names == []
        assert pool.stats().used == 0

    run_on_each(main)


def test_opposite_orders_of_two_aliases_are_refused_and_not_waited_for() -> None:
    """Told by the turns alone: two aliases would be two databases."""

    async def main() -> None:
        a, b, both = Turns(), Turns(), asyncio.Event()

        async def take(first: Turns, second: Turns) -> None:
            await first.take()
            try:
                if not both.is_set():
                    both.set()
                else:
                    await asyncio.sleep(0)
                await asyncio.sleep(0)
                await second.take()
                second.give()
            finally:
                first.give()

        ends = await asyncio.gather(take(a, b), take(b, a), return_exceptions=True)
        assert sorted(type(end).__name__ for end in ends) == ["NoneType", TurnDeadlock.__name__]

    asyncio.run(asyncio.wait_for(main(), PATIENCE))


def test_a_closed_coroutine_gives_up_its_transaction(
    pooled: Pooled, server: Server, run_on_each: Run
) -> None:
    pool = pooled(max_size=1)

    async def block() -> None:
        async with aatomic():
            await acreate("lost")
            await asyncio.get_running_loop().create_future()

    async def main() -> None:
        steps = block()
        awaited = steps.send(None)
        while not server.backends or "idle in transaction" not in server.backends.values():
            if awaited is not None and not awaited.done():
                awaited._asyncio_future_blocking = False
                await asyncio.wait({awaited}, timeout=PATIENCE)
            awaited = steps.send(None)
        steps.close()
        assert await bridged(count)() == 0
        assert pool.stats().used == 0

    run_on_each(main)


def test_what_a_block_has_its_threads_wait_for_ends_with_it(
    pooled: Pooled, server: Server, run_on_each: Run
) -> None:
    """An interrupt may have left it held: as of a wrapper that lives on, as a thread's own."""
    pooled(max_size=1)

    async def main() -> None:
        async with aatomic():
            wrapper: Any = await bridged(lambda: connections["default"])()
            async with aatomic():
                assert wrapper.first is not None
            assert wrapper.first is not None
        assert wrapper.first is None

    run_on_each(main)


def test_a_thread_and_a_call_that_begin_at_once_share_a_connection(
    pooled: Pooled, server: Server, run_on_each: Run
) -> None:
    pool = pooled(max_size=2)

    async def main() -> None:
        held = [pool.acquire() for _ in range(2)]
        try:
            async with aatomic():
                thread = asyncio.create_task(asyncio.to_thread(create, "thread"))
                await until(lambda: pool.stats().waiters == 1)
                call = asyncio.create_task(acreate("call"))
                await asyncio.sleep(0)  # it begins, and waits for a connection, too
                while held:
                    held.pop().release()
                await asyncio.gather(thread, call)
                assert pool.stats().used == 1
        finally:
            for lease in held:
                lease.release()
        assert server.names == ["call", "thread"]
        await bridged(Item.objects.all().delete)()

    run_on_each(main)

"""How blocks and iterations end where somebody does not wait for them, or nobody can any more."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any
from weakref import ref

import pytest
from django.db import transaction
from django.db.models.query import BaseIterable
from django.db.transaction import TransactionManagementError
from psycopg.pq import TransactionStatus

from django_poolkit.aio import aatomic, apinned, bridged, needed
from django_poolkit.aio.iteration import bridged_generator
from django_poolkit.aio.turns import Node, TurnDeadlock, node_of
from django_poolkit.pools.postgres import ConnectionPool, port, task_wait
from django_poolkit.testing.faults import TCPProxy
from tests.aio.support import Orphan, Pooled, Run, acreate, apid, aslow, count
from tests.app.models import Item
from tests.backends.transaction_mode.conftest import proxy
from tests.backends.transaction_mode.support import (
    PATIENCE,
    Server,
    backend,
    connection,
    create,
    fill,
    scalar,
)
from tests.pools.postgres.tasks import until

__all__ = ["proxy"]

pytestmark = pytest.mark.core


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a cancellation wait for a moment only."""
    monkeypatch.setattr(port, "ENDING", 0.2)
    monkeypatch.setattr(task_wait, "_ENDING", 0.2)


async def ended(task: asyncio.Task[Any]) -> BaseException | None:
    """Return how a task ends, which it has to do soon."""
    done, _ = await asyncio.wait({task}, timeout=PATIENCE)
    assert done, "it does not end"
    return asyncio.CancelledError() if task.cancelled() else task.exception()


# -- callbacks of a commit


@pytest.mark.parametrize("asynchronous", [True, False], ids=["aatomic", "atomic"])
def test_a_callback_that_never_ends_does_not_keep_a_cancelled_task(
    pooled: Pooled,
    server: Server,
    hurry: None,
    run_on_each: Run,
    caplog: pytest.LogCaptureFixture,
    asynchronous: bool,
) -> None:
    pool = pooled(max_size=1)

    async def main() -> None:
        inside, told = asyncio.Event(), []

        async def never() -> None:
            inside.set()
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                told.append("cancelled")
                raise

        def work() -> None:
            create("row")
            transaction.on_commit(never)
            transaction.on_commit(lambda: told.append("after it"))

        async def block() -> None:
            if asynchronous:
                async with aatomic():
                    await bridged(work)()
            else:
                await bridged(transaction.atomic(work))()

        task = asyncio.create_task(block())
        await inside.wait()
        task.cancel()
        assert isinstance(await ended(task), asyncio.CancelledError)
        assert told == ["cancelled"]
        assert server.names == ["row"]
        assert pool.stats().used == 0
        assert await bridged(Item.objects.all().delete)() == (1, {"app.Item": 1})

    run_on_each(main)
    assert [each for each in caplog.messages if each.startswith("event=shield_given_up")]


def test_a_callback_may_have_a_time_limit_of_its_own(
    pooled: Pooled, run_on_each: Run, caplog: pytest.LogCaptureFixture
) -> None:
    pooled()
    told: list[str] = []

    async def limited() -> None:
        try:
            async with asyncio.timeout(0.05):
                await asyncio.get_running_loop().create_future()
        except TimeoutError:
            told.append("its time was up")
        told.append(f"it sees {await bridged(count)()}")

    async def main() -> None:
        told.clear()
        async with aatomic():
            await acreate("row")
            transaction.on_commit(limited)
        assert told == ["its time was up", "it sees 1"]
        await bridged(Item.objects.all().delete)()

    run_on_each(main)
    assert not [each for each in caplog.messages if "shield" in each]


def test_a_server_that_is_silent_at_the_commit_does_not_keep_a_cancelled_task(
    pooled: Pooled, proxy: TCPProxy, hurry: None, run_on_each: Run
) -> None:
    # Without TLS and GSS a connect is one connection of the proxy, and nothing else.
    pool = pooled(
        max_size=1,
        entry={"HOST": proxy.host, "PORT": str(proxy.port)},
        options={"sslmode": "disable", "gssencmode": "disable"},
    )

    async def main() -> None:
        raws: list[Any] = []

        async def block() -> None:
            async with aatomic():
                await bridged(backend)()
                raws.append(await bridged(lambda: connection._raw)())
                await asyncio.to_thread(proxy.stall)

        task = asyncio.create_task(block())
        await until(lambda: bool(raws))
        await until(lambda: raws[0].pgconn.transaction_status == TransactionStatus.ACTIVE)
        ticks = 0
        task.cancel()
        while not task.done():
            ticks += 1
            await asyncio.sleep(0.01)
        assert await ended(task) is not None
        assert ticks > 10  # the loop went on
        assert raws[0].closed
        await asyncio.to_thread(proxy.resume)
        assert pool.stats().used == 0
        assert await apid()

    run_on_each(main)


# -- a block that is left while others go on in it


def test_a_cancelled_block_does_not_wait_for_ever_for_a_task_in_it(
    pooled: Pooled, server: Server, hurry: None, run_on_each: Run
) -> None:
    pool = pooled(max_size=1)

    async def main() -> None:
        orphan = Orphan()

        async def block() -> None:
            async with aatomic():
                orphan.begin()
                await asyncio.get_running_loop().create_future()

        task = asyncio.create_task(block())
        await orphan.inside.wait()
        task.cancel()
        assert isinstance(await ended(task), asyncio.CancelledError)
        assert await bridged(count)() == 0  # on the pool's only slot
        assert isinstance(await orphan.end(), TransactionManagementError)
        assert server.names == []
        assert pool.stats().used == 0

    run_on_each(main)


def test_a_cancelled_block_waits_for_tasks_that_are_cancelled_with_it(
    pooled: Pooled, server: Server, run_on_each: Run
) -> None:
    pool = pooled(max_size=1)

    async def main() -> None:
        pids: list[int] = []

        async def block() -> None:
            async with aatomic():
                pids.append(await apid())
                await asyncio.gather(*(aslow() for _ in range(3)))

        task = asyncio.create_task(block())
        await until(lambda: server.backends.get(pids[0]) == "active" if pids else False)
        task.cancel()
        assert isinstance(await ended(task), asyncio.CancelledError)
        assert await apid() == pids[0]  # nobody had to hang up
        assert pool.stats().used == 0

    run_on_each(main)


# -- where nobody can wait any more


async def driven(steps: Coroutine[Any, Any, Any], fact: Callable[[], bool]) -> None:
    """Drive a coroutine without owning it, so that somebody else can close it, up to a fact."""
    awaited = steps.send(None)
    while not fact():
        if awaited is not None and not awaited.done():
            awaited._asyncio_future_blocking = False
            await asyncio.wait({awaited}, timeout=0.01)
            if not awaited.done():
                continue
        awaited = steps.send(None)


def test_a_closed_coroutine_gives_up_its_pinned_connection(
    pooled: Pooled, server: Server, run_on_each: Run
) -> None:
    pool = pooled(max_size=1)

    async def block() -> None:
        async with apinned():
            await bridged(scalar)("SELECT pg_advisory_lock(11)")
            await asyncio.get_running_loop().create_future()

    async def main() -> None:
        steps = block()
        await driven(steps, lambda: 11 in server.locks)
        held = server.locks[11]
        steps.close()
        assert pool.stats().used == 0
        assert await apid() != held
        assert await bridged(scalar)("SELECT pg_try_advisory_lock(12)")
        await until(lambda: 11 not in server.locks)
        await until(lambda: held not in server.backends)

    run_on_each(main)


def test_a_closed_coroutine_within_a_block_spoils_it(
    pooled: Pooled, server: Server, run_on_each: Run
) -> None:
    pool = pooled(max_size=1)
    inside: list[bool] = []

    async def inner() -> None:
        async with aatomic():
            await acreate("inner")
            inside.append(True)
            await asyncio.get_running_loop().create_future()

    async def main() -> None:
        inside.clear()
        with pytest.raises(Exception, match="in an atomic block"):
            async with aatomic():
                await acreate("outer")
                steps = inner()
                await driven(steps, lambda: bool(inside))
                steps.close()
                await acreate("after")
        assert server.names == []
        assert pool.stats().used == 0
        assert await bridged(count)() == 0

    run_on_each(main)


def test_a_coroutine_that_is_closed_as_its_block_waits_for_others_is_closed(
    pooled: Pooled, server: Server, run_on_each: Run
) -> None:
    pool = pooled(max_size=1)

    async def main() -> None:
        orphan = Orphan()
        steps = orphan.block()
        await driven(steps, orphan.leaves.is_set)
        steps.close()
        assert pool.stats().used == 0
        assert await bridged(count)() == 0
        assert isinstance(await orphan.end(), TransactionManagementError)
        assert server.names == []
        assert pool.stats().used == 0

    run_on_each(main)


@pytest.fixture
def rows(pooled: Pooled, monkeypatch: pytest.MonkeyPatch) -> Iterator[ConnectionPool]:
    """A pool of one, ten rows, and Django's iterations are ours."""
    needed.install()
    monkeypatch.setattr(BaseIterable, "_async_generator", bridged_generator)
    pool = pooled(max_size=1)
    fill(10)
    connection.close()
    yield pool
    Item.objects.all().delete()
    connection.close()


@pytest.mark.parametrize("where", ["between", "within"])
@pytest.mark.parametrize("by", ["its own thread", "another thread"])
@pytest.mark.filterwarnings("ignore:.*was deleted while still open:ResourceWarning")
def test_a_closed_iteration_gives_up_its_connection(
    rows: ConnectionPool, server: Server, run_on_each: Run, where: str, by: str
) -> None:
    items = Item.objects.all()
    if where == "within":
        items = items.extra(select={"dawdles": "SELECT 1 FROM pg_sleep(60)"})

    async def read(seen: list[Item]) -> None:
        async for item in items.aiterator(chunk_size=3):
            seen.append(item)
            await asyncio.get_running_loop().create_future()

    async def main() -> None:
        seen: list[Item] = []
        held = [read(seen)]
        if where == "between":
            await driven(held[0], lambda: bool(seen))
        else:
            await driven(held[0], lambda: "active" in server.backends.values())
            assert not seen
        if by == "its own thread":
            held.pop().close()
        else:
            thread = threading.Thread(target=lambda: held.pop().close())
            thread.start()
            await asyncio.to_thread(thread.join)
        await until(lambda: rows.stats().used == 0)
        assert await bridged(count)() == 10
        await until(lambda: "active" not in server.backends.values())

    run_on_each(main)


def test_blocks_that_end_in_another_order_are_not_kept_by_those_that_follow() -> None:
    # As where a task that goes on and on leaves generators that are suspended within a block.
    ended = []
    for _ in range(3):
        suspended, around = Node("default", None), Node("default", None)
        around.publish()
        suspended.publish()
        around.withdraw()
        assert node_of("default") is suspended
        contextvars.Context().run(suspended.withdraw)  # by a finalizer
        assert node_of("default") is None
        ended += [ref(around), ref(suspended)]
    del around, suspended
    assert [each() is None for each in ended] == [True] * 4 + [False] * 2  # until the next
    last = Node("default", None)
    last.publish()
    last.withdraw()
    assert [each() for each in ended] == [None] * 6


def test_who_leaves_a_suspended_generator_ends_the_block_of_nobody_else(
    pooled: Pooled, server: Server, run_on_each: Run
) -> None:
    # One object, as a decorator is, that two tasks are in; the innermost block that the first one
    # sees is that of its generator, which a finalizer will close.
    pooled(max_size=2)

    async def rows() -> AsyncIterator[int]:
        async with aatomic():
            yield await bridged(count)()

    async def main() -> None:
        inside, first_has_ended = asyncio.Event(), asyncio.Event()

        async def first() -> None:
            await acreate("first")
            await inside.wait()
            async for _ in rows():
                break

        async def second() -> None:
            await acreate("second")
            inside.set()
            await first_has_ended.wait()
            raise ValueError

        block = aatomic()
        one = asyncio.create_task(block(first)())
        two = asyncio.create_task(block(second)())
        # Its generator goes on in the middle of its transaction, which is therefore lost.
        assert isinstance(await ended(one), TurnDeadlock)
        assert server.names == []
        first_has_ended.set()
        assert isinstance(await ended(two), ValueError)
        assert server.names == []

    run_on_each(main)

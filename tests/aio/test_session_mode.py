"""Session mode in tasks: a call's lease ends with the call, a block's with the block."""

from __future__ import annotations

import asyncio
import threading

import pytest
from asgiref.sync import ThreadSensitiveContext, sync_to_async
from django.db import DatabaseError, connections
from django.db.models.query import BaseIterable

from django_poolkit.aio import aatomic, apinned, bridged, needed
from django_poolkit.aio.iteration import bridged_generator
from tests.aio.support import Pooled, Run, apid, ascalar
from tests.app.models import Item
from tests.backends.transaction_mode.support import (
    PATIENCE,
    Server,
    backend,
    connection,
    create,
    fill,
)
from tests.pools.postgres.tasks import until

pytestmark = pytest.mark.core


def test_a_lease_lasts_for_a_call(pooled: Pooled, server: Server, run_on_each: Run) -> None:
    pool = pooled(mode="session", max_size=2)

    def two() -> tuple[int, int, int]:
        return backend(), pool.stats().used, backend()

    async def main() -> None:
        first, used, second = await bridged(two)()
        assert (first, used) == (second, 1)  # also between two statements
        assert pool.stats().used == 0
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*(apid() for _ in range(10)))  # on two connections
        assert pool.stats().used == 0
        await ascalar("SET application_name TO 'left'")
        # What it left ended with it, and the next call may have any connection.
        assert {await ascalar("SHOW application_name") for _ in range(3)} == {server._name}

    run_on_each(main)


def test_a_block_has_one_session(pooled: Pooled, server: Server, run_on_each: Run) -> None:
    pool = pooled(mode="session", max_size=2)

    async def main() -> None:
        async with apinned():
            await ascalar("CREATE TEMP TABLE kept (n int)")
            assert await ascalar("SELECT count(*) FROM kept") == 0
            assert pool.stats().used == 1
        assert await ascalar("SELECT to_regclass('kept')") is None
        async with aatomic():
            await bridged(create)("row")
            assert server.names == []
            assert pool.stats().used == 1
        assert server.names == ["row"]
        assert pool.stats().used == 0
        await bridged(Item.objects.all().delete)()

    run_on_each(main)


def test_the_lease_of_a_thread_of_the_request_is_its_own(pooled: Pooled, run_on_each: Run) -> None:
    pool = pooled(mode="session", max_size=2)

    async def main() -> None:
        async with ThreadSensitiveContext():
            theirs = await sync_to_async(backend)()
            assert pool.stats().used == 1  # the thread keeps it to the end of its request
            assert await apid() != theirs
            assert await sync_to_async(backend)() == theirs
            await sync_to_async(lambda: connection.close())()
            assert pool.stats().used == 0

    run_on_each(main)


def test_a_cancelled_call_gives_its_lease_back(
    pooled: Pooled, server: Server, run_on_each: Run
) -> None:
    pool = pooled(mode="session", max_size=1)

    async def main() -> None:
        task = asyncio.create_task(ascalar("SELECT pg_sleep(60)"))
        await until(lambda: "active" in server.backends.values())
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert pool.stats().used == 0
        assert await apid()

    run_on_each(main)


def test_an_iteration_holds_its_lease(
    pooled: Pooled, run_on_each: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed.install()
    monkeypatch.setattr(BaseIterable, "_async_generator", bridged_generator)
    pool = pooled(mode="session", max_size=2)
    fill(7)
    connection.close()

    async def main() -> None:
        seen = 0
        async for _ in Item.objects.aiterator(chunk_size=3):
            assert pool.stats().used == 1
            seen += 1
            if seen == 4:
                assert await apid()
        assert seen == 7
        assert pool.stats().used == 0

    run_on_each(main)
    Item.objects.all().delete()
    connection.close()


def test_a_thread_that_outlives_its_block_holds_nothing(pooled: Pooled, run_on_each: Run) -> None:
    pool = pooled(mode="session", max_size=1)

    async def main() -> None:
        reached, over = threading.Event(), threading.Event()

        def late() -> None:
            wrapper = connections["default"]  # as a query has it, before it connects
            reached.set()
            assert over.wait(PATIENCE)
            wrapper.ensure_connection()

        async with apinned():
            thread = asyncio.ensure_future(asyncio.to_thread(late))
            await asyncio.to_thread(reached.wait, PATIENCE)
        over.set()
        with pytest.raises(DatabaseError, match="in that same thread"):
            await thread
        assert pool.stats().used == 0
        assert await ascalar("SELECT 1") == 1

    run_on_each(main)


def test_a_thread_and_a_call_that_begin_at_once_share_a_session(
    pooled: Pooled, run_on_each: Run
) -> None:
    pool = pooled(mode="session", max_size=2)

    async def main() -> None:
        held = [pool.acquire() for _ in range(2)]
        try:
            async with apinned():
                thread = asyncio.create_task(asyncio.to_thread(backend))
                await until(lambda: pool.stats().waiters == 1)
                call = asyncio.create_task(apid())
                await asyncio.sleep(0)  # it begins, and waits for a connection, too
                while held:
                    held.pop().release()
                first, second = await asyncio.gather(thread, call)
                assert (first, pool.stats().used) == (second, 1)
        finally:
            for lease in held:
                lease.release()
        assert pool.stats().used == 0

    run_on_each(main)

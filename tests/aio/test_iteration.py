"""Iterations in the bridge: a lease of their own, which comes home however they end."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import psycopg
import pytest
from django.db import transaction
from django.db.models.query import BaseIterable

from django_poolkit.aio import aatomic, bridged, needed
from django_poolkit.aio.iteration import bridged_generator
from django_poolkit.pools.postgres import ConnectionPool
from tests.aio.support import Pooled, Run
from tests.app.models import Item
from tests.backends.transaction_mode.support import PATIENCE, Server, backend, connection, fill
from tests.pools.postgres.tasks import until

pytestmark = pytest.mark.core


OPEN = "SELECT count(*) FROM pg_cursors WHERE name LIKE '_django_curs%'"


@pytest.fixture(autouse=True)
def in_the_bridge(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have Django's iterations be ours."""
    needed.install()
    monkeypatch.setattr(BaseIterable, "_async_generator", bridged_generator)


@pytest.fixture
def rows(pooled: Pooled) -> Iterator[ConnectionPool]:
    """A pool of two, and ten rows in the table."""
    pool = pooled(max_size=2)
    fill(10)
    connection.close()
    yield pool
    Item.objects.all().delete()
    connection.close()


def names(**options: Any) -> AsyncIterator[Item]:
    return Item.objects.order_by("name").aiterator(chunk_size=3, **options)


def test_all_rows_come_and_the_lease_goes(rows: ConnectionPool, run_on_each: Run) -> None:
    async def main() -> None:
        expected = [f"row{number:03}" for number in range(10)]
        assert [item.name async for item in names()] == expected
        values = Item.objects.order_by("name").values_list("name", flat=True)
        assert [name async for name in values.aiterator(chunk_size=5)] == expected
        pairs = Item.objects.order_by("name").values_list("name", "pk")
        assert [name async for name, _ in pairs.aiterator(chunk_size=4)] == expected
        assert rows.stats().used == 0

    run_on_each(main)


def test_other_queries_run_beside_it(rows: ConnectionPool, run_on_each: Run) -> None:
    async def main() -> None:
        seen: list[Item] = []
        async for item in names():
            assert rows.stats().used == 1 or len(seen) >= 9
            seen.append(await bridged(Item.objects.get)(pk=item.pk))
        assert len(seen) == 10
        assert rows.stats().used == 0

    run_on_each(main)


@pytest.mark.parametrize("kind", ["objects", "values"])
def test_an_iteration_that_is_given_up_returns_its_lease(
    rows: ConnectionPool, run_on_each: Run, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = Item.objects.all() if kind == "objects" else Item.objects.values_list("name")
    blocked: list[int] = []
    wait = psycopg.Connection.wait

    def waiting(*args: Any, **kwargs: Any) -> Any:
        blocked.append(threading.get_ident())
        return wait(*args, **kwargs)

    monkeypatch.setattr(psycopg.Connection, "wait", waiting)

    async def main() -> None:
        for _ in range(6):
            async for _ in chosen.aiterator(chunk_size=3):
                break
            gc.collect()
            await until(lambda: rows.stats().used == 0)
        stats = rows.stats()
        assert (stats.leaks, stats.idle) == (0, stats.size)
        assert threading.get_ident() not in blocked  # nobody has waited on the loop's own thread

    run_on_each(main)


def test_an_iteration_that_is_cancelled_returns_its_lease(
    rows: ConnectionPool, run_on_each: Run
) -> None:
    async def main() -> None:
        begun = asyncio.Event()

        async def work() -> None:
            async for _ in names():
                begun.set()
                await asyncio.get_running_loop().create_future()

        task = asyncio.create_task(work())
        await begun.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        del task
        gc.collect()
        await until(lambda: rows.stats().used == 0)

    run_on_each(main)


def test_rows_are_updated_as_they_are_read_in_a_block(
    rows: ConnectionPool, server: Server, run_on_each: Run
) -> None:
    def update(item: Item) -> int:
        Item.objects.filter(pk=item.pk).update(name=item.name.upper())
        return backend()

    async def main() -> None:
        async with aatomic():
            pids = {await bridged(update)(item) async for item in names()}
            assert len(pids) == 1
            async with aatomic():
                async for item in names():
                    async with aatomic():
                        await bridged(update)(item)
                    break
            transaction.set_rollback(True)
        assert server.names[0] == "row000"

    run_on_each(main)


def test_the_cursor_on_the_server_is_closed_within_a_block(
    rows: ConnectionPool, run_on_each: Run
) -> None:
    def opened() -> int:
        with connection.cursor() as cursor:
            cursor.execute(OPEN)
            (count,) = cursor.fetchone()
            return int(count)

    async def main() -> None:
        async with aatomic():
            iteration = aiter(names())
            await anext(iteration)
            assert await bridged(opened)() == 1
            del iteration
            # Django has a generator within another one, which only the loop's hook closes.
            async with asyncio.timeout(PATIENCE):
                while await bridged(opened)():
                    gc.collect()

    run_on_each(main)

"""Generators that are left half way: whom that tells what, and what it costs a block."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any

import pytest
from django.db import transaction
from django.db.transaction import TransactionManagementError

from django_poolkit.aio import aatomic, bridged
from tests.aio.support import Pooled, Run, acreate, count
from tests.app.models import Item
from tests.backends.transaction_mode.support import PATIENCE, Server, connection, create
from tests.pools.postgres.tasks import until

pytestmark = pytest.mark.core


def iterated() -> Iterator[Any]:
    for number in range(20):
        create(str(number))
    return Item.objects.iterator(chunk_size=1)


def streamed() -> Iterator[Any]:
    rows: Iterator[Any] = connection.cursor().stream("SELECT generate_series(1, 100000)")
    return rows


@pytest.mark.parametrize("begin", [iterated, streamed])
def test_a_cancellation_as_a_generator_is_dropped_is_told(
    pooled: Pooled, server: Server, run_on_each: Run, begin: Callable[[], Iterator[Any]]
) -> None:
    pooled(max_size=1)

    async def main() -> None:
        def leave_half_way() -> None:
            task = asyncio.current_task()
            assert task is not None
            rows = begin()
            next(rows)
            # While the server is told, which is what dropping it comes to.
            asyncio.get_running_loop().call_soon(task.cancel)
            del rows

        task = asyncio.create_task(bridged(leave_half_way)())
        async with asyncio.timeout(PATIENCE):
            await asyncio.wait([task])
        assert task.cancelled()
        await bridged(Item.objects.all().delete)()
        await until(lambda: set(server.backends.values()) == {"idle"})

    run_on_each(main)


async def by_itself() -> AsyncIterator[None]:
    async with aatomic():
        await acreate("inner")
        yield
        yield


async def in_a_stack() -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(aatomic())
        await acreate("inner")
        yield
        yield


@asynccontextmanager
async def _unit() -> AsyncIterator[None]:
    async with aatomic():
        yield


async def in_another() -> AsyncIterator[None]:
    async with _unit():
        await acreate("inner")
        yield
        yield


KINDS = pytest.mark.parametrize("rows", [by_itself, in_a_stack, in_another])


@KINDS
def test_a_generator_that_is_closed_loses_its_own_block_alone(
    pooled: Pooled, server: Server, run_on_each: Run, rows: Callable[[], Any]
) -> None:
    pool = pooled(max_size=1)

    async def main() -> None:
        ran: list[str] = []
        async with aatomic():
            await acreate("outer")
            transaction.on_commit(lambda: ran.append("outer"))
            async with aclosing(rows()) as half:
                await anext(half)
            assert await bridged(count)() == 1
            await acreate("after")
        assert ran == ["outer"]
        async with aclosing(rows()) as half:  # with no block around it
            await anext(half)
        assert server.names == ["after", "outer"]
        await bridged(Item.objects.all().delete)()

    run_on_each(main)
    assert "discarded" not in {k for k, n in pool.stats().closed.items() if n}


@KINDS
def test_a_block_is_told_of_a_generator_that_was_dropped_within(
    pooled: Pooled, server: Server, run_on_each: Run, rows: Callable[[], Any]
) -> None:
    pool = pooled(max_size=1)

    async def main() -> None:
        with pytest.raises(TransactionManagementError, match="generator was dropped"):
            async with aatomic():
                await acreate("outer")
                async for _ in rows():
                    break
                await until(lambda: pool.stats().used == 0)  # the loop has closed it
        assert server.names == []

    run_on_each(main)

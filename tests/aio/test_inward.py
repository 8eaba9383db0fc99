"""Async code that a block of a thread calls by `async_to_sync()`, and that leases first.

Its event loop and its threads are over when it returns, and the block goes on.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.db import transaction
from django.db.transaction import TransactionManagementError

from django_poolkit.aio import aatomic, bridged
from tests.aio.support import Pooled, Run, acreate, aslow
from tests.backends.transaction_mode.support import PATIENCE, Server, connection, create
from tests.pools.postgres.tasks import until
from tests.pools.support import Call

pytestmark = pytest.mark.core

threads: list[threading.Thread] = []


async def in_the_bridge(name: str) -> None:
    threads.append(threading.current_thread())
    await acreate(name)


async def in_a_thread(name: str) -> None:
    def first() -> None:
        threads.append(threading.current_thread())
        create(name)

    await sync_to_async(first, thread_sensitive=False)()


@pytest.mark.parametrize("lease_first", [in_the_bridge, in_a_thread])
def test_what_it_leases_is_the_blocks(pooled: Pooled, server: Server, lease_first: Any) -> None:
    pool = pooled(max_size=2)
    threads.clear()

    def block() -> None:
        with transaction.atomic():
            async_to_sync(lease_first)("async")
            [thread] = threads
            assert thread is not threading.current_thread()
            thread.join(PATIENCE)
            pool.adopt_orphans()  # as whoever passes does
            create("sync")
        assert pool.stats().used == 0
        connection.close()

    Call(block).result()  # in a thread that has leased nothing before
    assert server.names == ["async", "sync"]
    assert pool.stats().leaks == 0


def test_what_it_has_written_the_block_rolls_back(pooled: Pooled, server: Server) -> None:
    pool = pooled(max_size=2)
    with transaction.atomic():
        async_to_sync(in_the_bridge)("async")
        pool.adopt_orphans()
        transaction.set_rollback(True)
    assert server.names == []
    connection.close()
    assert pool.stats().used == 0


async def gives_up(server: Server) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(0.2):
            await aslow()


async def leaves_a_task_behind(server: Server) -> None:
    _left.append(asyncio.create_task(aslow()))
    await until(lambda: "active" in server.backends.values())  # asyncio.run() cancels it


_left: list[Any] = []


@pytest.mark.parametrize("cancels", [gives_up, leaves_a_task_behind])
def test_a_cancelled_statement_that_is_caught_in_it_is_told(
    pooled: Pooled, server: Server, cancels: Any
) -> None:
    pooled()
    with pytest.raises(TransactionManagementError, match="cancelled"), transaction.atomic():
        create("lost")
        async_to_sync(cancels)(server)
    assert server.names == []
    connection.close()


def test_in_the_bridge_it_is_told_as_well(pooled: Pooled, server: Server, run_on_each: Run) -> None:
    pooled()

    def block() -> None:
        with pytest.raises(TransactionManagementError, match="cancelled"), transaction.atomic():
            create("lost")
            async_to_sync(gives_up)(server)
        assert server.names == []

    run_on_each(bridged(block))


def test_a_block_of_its_own_saves_the_one_around_it(pooled: Pooled, server: Server) -> None:
    pooled()

    async def gives_up_a_block() -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(0.2), aatomic():
                await acreate("inner")
                await aslow()

    with transaction.atomic():
        create("outer")
        async_to_sync(gives_up_a_block)()
    assert server.names == ["outer"]
    connection.close()

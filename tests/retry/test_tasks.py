"""`aretry_read()`: the same in tasks, with the ORM in threads and in the bridge."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import NotSupportedError, OperationalError, connections

from django_poolkit import retry
from django_poolkit.aio import aatomic, bridged
from django_poolkit.retry import aretry_read, retry_read
from django_poolkit.testing.faults import Snare
from tests.app.models import Item
from tests.retry.test_reads import MODES, READ, scalar

pytestmark = [pytest.mark.core, pytest.mark.usefixtures("unasked")]

in_thread = sync_to_async(scalar)
in_bridge = bridged(scalar)
PATHS = pytest.mark.parametrize("path", [in_thread, in_bridge], ids=["thread", "bridge"])


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have nobody wait for long."""
    monkeypatch.setattr(retry, "BASE", 0.001)


def run(function: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Return what a coroutine returns; nothing of it may be left open."""

    async def whole() -> Any:
        try:
            return await function()
        finally:
            await sync_to_async(connections.close_all)()

    return asyncio.run(whole())


@MODES
@PATHS
def test_a_call_is_made_again(pooled, proxy, ledger, mode, path):
    pool = pooled(mode=mode)
    calls = []

    @aretry_read
    async def report(name: str) -> Any:
        calls.append(name)
        return await path("SELECT 1"), await path(READ)

    snare = proxy.snare = Snare(READ, "before", times=2)
    assert run(lambda: report("one")) == (1, 1)
    assert calls == ["one"] * 3
    assert (snare.sent, ledger.runs) == (3, 1)
    assert dict(pool.stats().retries) == {"call": 2}


@PATHS
def test_there_are_so_many_attempts(pooled, proxy, path):
    pooled(mode="transaction")
    snare = proxy.snare = Snare(READ, "before", times=99)

    @aretry_read(attempts=2)
    async def report() -> Any:
        return await path(READ)

    with pytest.raises(OperationalError):
        run(report)
    assert snare.sent == 2


@PATHS
def test_what_may_write_is_refused(pooled, ledger, path):
    pooled(mode="transaction")

    @aretry_read
    async def write() -> Any:
        await path("INSERT INTO app_item (name, created) VALUES ('w', now())")

    with pytest.raises(NotSupportedError, match="retry_read"):
        run(write)
    assert ledger.rows == 0


def test_djangos_own_async_methods_are_understood(pooled, proxy):
    pooled(mode="transaction")
    Item.objects.create(name="one")
    snare = proxy.snare = Snare('FROM "app_item"', "after")

    @aretry_read
    async def find() -> str:
        return (await Item.objects.aget(name="one")).name

    assert run(find) == "one"
    assert snare.sent == 2


def test_within_a_block_with_one_transaction_it_is_called_once(pooled, proxy):
    pooled(mode="transaction")
    snare = proxy.snare = Snare(READ, "before")

    @aretry_read
    async def report() -> Any:
        return await in_bridge(READ)

    async def block() -> None:
        async with aatomic():
            await in_bridge("SELECT 1")
            await report()

    with pytest.raises(OperationalError):
        run(block)
    assert snare.sent == 1


def test_a_sync_call_in_the_bridge_does_not_hold_up_the_loop(pooled, proxy, monkeypatch):
    pooled(mode="transaction")
    proxy.snare = Snare(READ, "before")
    paused: list[float] = []
    monkeypatch.setattr("django_poolkit.backends.pausing.sleep", paused.append)
    assert run(lambda: bridged(retry_read(scalar))(READ)) == 1
    assert paused == []


@PATHS
def test_a_cancellation_is_no_failure(pooled, path):
    pool = pooled(mode="transaction")
    calls = []

    async def cancelled() -> None:
        asked = asyncio.Event()

        @aretry_read
        async def slow() -> Any:
            calls.append(await path("SELECT 1"))
            asked.set()
            await asyncio.Event().wait()

        task = asyncio.create_task(slow())
        await asked.wait()
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        run(cancelled)
    assert (calls, pool.stats().used) == ([1], 0)


def test_what_is_no_coroutine_function_is_refused():
    async def rows() -> Any:
        yield 1

    with pytest.raises(TypeError, match="retry_read"):
        aretry_read(scalar)
    with pytest.raises(TypeError, match="generator"):
        aretry_read(rows)

"""Cursors that nobody closes: their finalizers wait for nothing on the loop, whatever is due."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable
from typing import Any

import pytest

from django_poolkit.aio import aatomic, bridged
from django_poolkit.pools.bridge.driver import await_only
from django_poolkit.pools.postgres import reset, verify
from tests.aio.support import Pooled, Run, apid
from tests.backends.transaction_mode.support import Server, backend, connection

pytestmark = pytest.mark.core


OPTIONS = [{"reset": "always"}, {"verify_state": True}]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The threads in which a server was asked at a release."""
    threads: list[int] = []

    def noting(function: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*args: Any, **kwargs: Any) -> Any:
            threads.append(threading.get_ident())
            return function(*args, **kwargs)

        return noted

    monkeypatch.setattr(reset, "clean", noting(reset.clean))
    monkeypatch.setattr(verify, "left", noting(verify.left))
    return threads


def opened() -> Any:
    cursor = connection.cursor()
    cursor.execute("SELECT 1")
    return cursor


@pytest.mark.parametrize("options", OPTIONS, ids=["reset", "verify_state"])
def test_a_cursor_that_is_dropped_suspends_nobody(
    pooled: Pooled, asked: list[int], run_on_each: Run, options: dict[str, Any]
) -> None:
    pool = pooled(max_size=1, **options)

    async def main() -> None:
        ticks, done = 0, False

        async def tick() -> None:
            nonlocal ticks
            while not done:
                await asyncio.sleep(0)
                ticks += 1

        def work() -> int:
            cursor = opened()
            before = ticks
            asked.clear()
            del cursor
            assert ticks == before  # no switch within the finalizer
            assert asked == []
            return backend()  # on the same connection, or when that has come home

        ticking = asyncio.create_task(tick())
        assert await bridged(work)()
        assert pool.stats().used == 0
        assert asked  # in the end it was done
        done = True
        await ticking

    run_on_each(main)


@pytest.mark.parametrize("options", OPTIONS, ids=["reset", "verify_state"])
def test_the_garbage_collector_blocks_no_loop(
    pooled: Pooled, asked: list[int], run_on_each: Run, options: dict[str, Any]
) -> None:
    pool = pooled(max_size=2, **options)

    async def main() -> None:
        dropped, waiting = asyncio.Event(), asyncio.Event()

        def waits() -> None:
            cycle: list[Any] = []
            cycle += [cycle, opened()]
            del cycle
            waiting.set()
            await_only(dropped.wait())
            assert pool.stats().used <= 1

        gc.collect()
        task = asyncio.create_task(bridged(waits)())
        await waiting.wait()
        asked.clear()
        gc.collect()  # on the thread of the loop, outside of the bridge
        assert threading.get_ident() not in asked
        # Whoever passes has a worker do it.
        await asyncio.gather(apid(), apid())
        dropped.set()
        await task
        assert pool.stats().used == 0

    run_on_each(main)


def test_a_cursor_that_is_dropped_in_a_block_ends_nothing(
    pooled: Pooled, server: Server, run_on_each: Run
) -> None:
    pool = pooled(max_size=1, reset="always")

    def drop() -> int:
        opened()
        return backend()

    async def main() -> None:
        async with aatomic():
            pid = await apid()
            assert await bridged(drop)() == pid
            gc.collect()
            assert await apid() == pid
        assert pool.stats().used == 0

    run_on_each(main)

"""Calls whose task is gone: closed loops, closed coroutines, and what another thread drops.

A greenlet that is suspended is seen by no garbage collector, so nobody would miss its lease.
"""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from django_poolkit.pools.bridge.driver import run
from django_poolkit.pools.postgres import cancel_request, reset
from django_poolkit.testing.waiting import wait_until
from tests.pools.bridge.support import by_itself, one
from tests.pools.postgres.tasks import (
    LOOPS,
    SLEEP,
    assert_idle_on_server,
    assert_quiet,
    run_on,
    running,
    until,
    until_runs,
)

ALL = ("SELECT 1 FROM pg_sleep(0.05)",)


@pytest.fixture
def pool(make_pool, app):
    """A pool whose statements can be seen on the server."""
    return make_pool(max_size=3, kwargs={"application_name": app})


def close_the_loop_under(
    kind: str, begin: Callable[[], Coroutine[Any, Any, None]], tasks: list[Any], kept: bool
) -> None:
    """Close a loop under the tasks that were begun on it; forget them, unless they are kept."""
    loop = LOOPS[kind]()
    loop.set_exception_handler(lambda loop, context: None)
    loop.run_until_complete(begin())
    loop.close()
    for task in tasks:
        task._log_destroy_pending = False
    if not kept:
        tasks.clear()
        gc.collect()


@pytest.mark.parametrize("kind", LOOPS)
@pytest.mark.parametrize("kept", [True, False])
def test_a_closed_loop_loses_no_slot(pool, primary, app, kind, kept, recwarn):
    tasks: list[Any] = []

    async def begin() -> None:
        tasks.extend(asyncio.ensure_future(run(one, pool, SLEEP)) for _ in range(4))
        await until_runs(primary, app, count=3)
        await until(lambda: pool.stats().waiters == 1)

    close_the_loop_under(kind, begin, tasks, kept)

    async def main() -> list[Any]:
        async with asyncio.timeout(20.0):
            return await asyncio.gather(*(run(one, pool, ALL[0]) for _ in range(3)))

    assert run_on(kind, main) == [1, 1, 1]
    assert_idle_on_server(primary, app)
    tasks.clear()
    gc.collect()
    assert_quiet(pool)
    assert pool.stats().leaks == 3


@pytest.mark.parametrize("kind", LOOPS)
@pytest.mark.parametrize("kept", [True, False])
def test_nor_does_one_that_is_closed_in_the_middle_of_a_release(
    pool, primary, app, kind, kept, monkeypatch, recwarn
):
    monkeypatch.setattr(reset, "RESET", SLEEP.encode())
    tasks: list[Any] = []

    def work() -> None:
        with pool.lease() as connection:
            connection.execute("SET work_mem = '5MB'")

    async def begin() -> None:
        tasks.append(asyncio.ensure_future(run(work)))
        await until_runs(primary, app)

    close_the_loop_under(kind, begin, tasks, kept)
    pool.adopt_orphans()
    assert pool.stats().used == 0
    wait_until(lambda: not running(primary, app))
    tasks.clear()
    gc.collect()
    assert_idle_on_server(primary, app)
    assert_quiet(pool)


@pytest.mark.parametrize("kind", LOOPS)
def test_a_coroutine_closed_in_mid_query_gives_its_slot_back(pool, primary, app, kind):
    async def main() -> None:
        coroutine = run(one, pool, SLEEP)
        task = asyncio.ensure_future(driven(coroutine))
        await until_runs(primary, app)
        coroutine.close()
        assert pool.stats().used == 0
        task.cancel()
        await asyncio.wait([task])
        # The statement does not go on until its own end.
        await asyncio.to_thread(wait_until, lambda: not running(primary, app))

    run_on(kind, main)
    assert_quiet(pool)


@pytest.mark.parametrize("kind", LOOPS)
@pytest.mark.parametrize("kept", [True, False])
def test_one_thread_is_enough_for_what_a_closed_loop_has_left_running(
    pool, primary, app, kind, kept, monkeypatch, recwarn
):
    send, sent = cancel_request._send_twice, []

    def noting(request: Any) -> None:
        sent.append(request)
        send(request)

    monkeypatch.setattr(cancel_request, "_send_twice", noting)
    tasks: list[Any] = []

    async def begin() -> None:
        tasks.append(asyncio.ensure_future(run(one, pool, SLEEP)))
        await until_runs(primary, app)

    loop = LOOPS[kind]()
    loop.set_exception_handler(lambda loop, context: None)
    loop.run_until_complete(begin())
    loop.close()
    tasks[0]._log_destroy_pending = False
    if not kept:
        tasks.clear()
        gc.collect()
    pool.adopt_orphans()
    tasks.clear()
    gc.collect()
    wait_until(lambda: not running(primary, app))
    assert_quiet(pool)
    assert len(sent) == 1


async def driven(coroutine: Any) -> None:
    """Drive a coroutine without owning it, so that somebody else can close it."""
    while True:
        try:
            awaited = coroutine.send(None)
        except (StopIteration, RuntimeError):
            return
        awaited._asyncio_future_blocking = False
        try:
            await asyncio.wait([awaited])
        except asyncio.CancelledError:
            return  # without a traceback, which would know the coroutine


@pytest.mark.parametrize("kind", LOOPS)
def test_what_another_thread_drops_comes_home(pool, primary, app, kind):
    async def main() -> None:
        coroutine = run(one, pool, SLEEP)
        task = asyncio.ensure_future(driven(coroutine))
        await until_runs(primary, app)
        task.cancel()
        await asyncio.wait([task])
        held = [coroutine]
        del coroutine, task
        thread = threading.Thread(target=held.clear)
        thread.start()
        await asyncio.to_thread(thread.join)
        await until(lambda: pool.stats().used == 0)
        await asyncio.to_thread(wait_until, lambda: not running(primary, app))
        assert await run(by_itself, pool) == 1

    run_on(kind, main)
    assert_quiet(pool)


@pytest.mark.parametrize("kind", LOOPS)
def test_a_thread_that_ends_with_its_loop_left_open_loses_no_slot(pool, primary, app, kind):
    loop = LOOPS[kind]()
    tasks: list[Any] = []

    async def begin() -> None:
        tasks.extend(asyncio.ensure_future(run(one, pool, SLEEP)) for _ in range(3))
        await until_runs(primary, app, count=3)

    thread = threading.Thread(target=loop.run_until_complete, args=(begin(),))
    thread.start()
    thread.join()
    for task in tasks:
        task._log_destroy_pending = False
    assert pool.stats().used == 3
    loop.close()
    assert one(pool) == 1
    assert_idle_on_server(primary, app)
    tasks.clear()
    gc.collect()
    assert_quiet(pool)

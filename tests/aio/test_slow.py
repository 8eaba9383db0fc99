"""Slow slices: what holds the loop is logged with its stack, and counted."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import Callable, Iterator

import pytest
from django.db import transaction
from django.db.models.signals import post_init

from django_poolkit.aio import aatomic, bridged, orm, slow
from django_poolkit.aio.slow import SlowSlices, called, slow_slices
from django_poolkit.conf.async_orm import AsyncOrmConfig
from django_poolkit.pools.bridge.slices import SlowSlice
from django_poolkit.pools.postgres import ConnectionPool
from tests.app.models import Item

pytestmark = pytest.mark.core

THRESHOLD = 0.02


@pytest.fixture
def watched(
    pooled: Callable[..., ConnectionPool], caplog: pytest.LogCaptureFixture
) -> Iterator[pytest.LogCaptureFixture]:
    """Have the ORM on the loop, and a short threshold."""
    slow_slices.forget()
    pooled()
    orm.install(AsyncOrmConfig(enabled=True, slow_slice=THRESHOLD))
    caplog.set_level(logging.WARNING, "django_poolkit.aio")
    yield caplog
    orm.uninstall()
    slow_slices.forget()


def hold(**kwargs: object) -> None:
    """Hold the loop until somebody must have looked."""
    until = time.monotonic() + 4 * THRESHOLD
    while time.monotonic() < until:
        sum(range(100))


def test_a_receiver_that_blocks_is_named(watched: pytest.LogCaptureFixture) -> None:
    async def read() -> None:
        [_ async for _ in Item.objects.all()]

    Item.objects.create(name="a")
    post_init.connect(hold, sender=Item)
    try:
        asyncio.run(read())
    finally:
        post_init.disconnect(hold, sender=Item)
    assert slow_slices.read()["QuerySet._fetch_all", ""] >= 1
    # Under load anything may be slow; the receiver is told in any case.
    lines = [each for each in watched.messages if "test_slow.py" in each and " hold" in each]
    assert lines
    assert lines[0].startswith("event=slow_slice seconds=0.")
    assert " call=QuerySet._fetch_all " in lines[0]


def test_a_function_of_a_project_is_counted_by_its_name(watched: pytest.LogCaptureFixture) -> None:
    asyncio.run(bridged(hold)())
    assert slow_slices.read()["hold", ""] == 1


def test_a_callback_of_a_block_is_counted_as_the_blocks(watched: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with aatomic():
            await Item.objects.acreate(name="a")
            transaction.on_commit(hold)

    slow_slices.forget()
    asyncio.run(main())
    assert slow_slices.read()["aatomic", ""] == 1
    assert ("?", "") not in slow_slices.read()
    assert "a block" not in str(slow_slices.read())


def test_a_function_is_known_through_the_deepest_stack(watched: pytest.LogCaptureFixture) -> None:
    def deeper(depth: int) -> None:
        if depth:
            deeper(depth - 1)
        else:
            hold()

    def deep() -> None:
        deeper(100)

    asyncio.run(bridged(deep)())
    ((call, _),) = slow_slices.read()
    assert call.endswith("deep")


def test_many_objects_at_once_are_told_and_chunks_are_not(
    watched: pytest.LogCaptureFixture,
) -> None:
    Item.objects.bulk_create([Item(name=str(number)) for number in range(20_000)])

    async def everything() -> int:
        return len([each async for each in Item.objects.all()])

    async def in_chunks() -> int:
        return len([each async for each in Item.objects.aiterator(chunk_size=500)])

    assert asyncio.run(everything()) == 20_000
    assert slow_slices.read()["QuerySet._fetch_all", ""] >= 1
    whole = longest(everything)
    assert longest(in_chunks) < whole / 2


def longest(work: Callable[[], object]) -> float:
    """Return the most CPU that the loop's thread took without a turn of the loop, in seconds."""

    async def main() -> float:
        worst, last, done = 0.0, time.thread_time(), False

        async def tick() -> None:
            nonlocal worst, last
            while not done:
                await asyncio.sleep(0)
                now = time.thread_time()
                worst, last = max(worst, now - last), now

        ticking = asyncio.create_task(tick())
        await work()  # type: ignore[misc]
        done = True
        await ticking
        return worst

    gc.collect()
    gc.disable()  # what that takes is the doing of neither
    try:
        return asyncio.run(main())
    finally:
        gc.enable()


def test_nobody_looks_where_none_is_asked_for(watched: pytest.LogCaptureFixture) -> None:
    slow.watch(None)
    asyncio.run(bridged(hold)())
    assert slow_slices.read() == {}


STACK = ("/a/models.py:3 Item.save", "/a/query.py:9 QuerySet.create", "/b/calls.py:4 Call._run",
         "/b/calls.py:9 Call.run")  # fmt: skip


def test_each_place_is_logged_once_in_a_while_and_counted_each_time(
    caplog: pytest.LogCaptureFixture,
) -> None:
    told = SlowSlices()
    for seconds in (0.1, 0.2, 0.3):
        told.tell(SlowSlice(seconds=seconds, task="t", stack=STACK))
    told.tell(SlowSlice(seconds=0.4, task=None, stack=("/a/views.py:1 report",)))
    told.tell(SlowSlice(seconds=0.5, task="t", stack=STACK[1:]))  # elsewhere in the same
    assert told.read() == {("QuerySet.create", ""): 4, ("report", ""): 1}
    assert [message.splitlines()[0] for message in caplog.messages] == [
        "event=slow_slice seconds=0.100 call=QuerySet.create task=t",
        "event=slow_slice seconds=0.400 call=report task=None",
        "event=slow_slice seconds=0.500 call=QuerySet.create task=t",
    ]
    assert caplog.messages[0].splitlines()[1:] == [f"  {line}" for line in STACK]


def test_the_function_is_the_one_that_was_given() -> None:
    assert called(STACK) == "QuerySet.create"
    assert called(STACK[2:]) == "?"
    begins = "/b/transaction.py:4 AsyncAtomic._begin", "/b/blocks.py:3 Block._open"
    ends = "/a/models.py:3 hook", "/b/pinning.py:2 apinned._end", "/b/blocks.py:9 Block._close"
    assert (called(begins), called(ends)) == ("aatomic", "apinned")
    assert called(("/a:1 enter", "/b/blocks.py:3 Block._open")) == "a block"
    assert called(()) == "?"

"""Slow slices: who holds the loop for too long is named, with the place where it did so."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from django_poolkit.pools.bridge import driver, slices
from django_poolkit.pools.bridge.driver import await_only, run
from django_poolkit.pools.bridge.slices import SlowSlice
from django_poolkit.testing.waiting import wait_until
from tests.pools.support import PATIENCE

THRESHOLD = 0.02


@pytest.fixture
def told() -> Iterator[list[SlowSlice]]:
    """What is told while a test runs."""
    found: list[SlowSlice] = []
    slices.watch(THRESHOLD, found.append)
    yield found
    slices.unwatch()


def spin() -> None:
    """Hold the loop for longer than the threshold."""
    until = time.monotonic() + 2 * THRESHOLD
    while time.monotonic() < until:
        sum(range(100))


def dawdle() -> None:
    """Hold the loop until the watcher has seen it, as a receiver that does too much would."""
    watch: Any = driver.watch
    until = time.monotonic() + PATIENCE
    spin()
    while time.monotonic() < until and not any(
        each.stack is not None and each.stack[0] == each.since for each in list(watch._slices)
    ):
        sum(range(100))


def in_named_task(function: Callable[..., Any], *args: Any) -> Any:
    async def main() -> Any:
        return await asyncio.create_task(run(function, *args), name="the-caller")

    return asyncio.run(main())


def test_it_names_where_the_time_goes_and_not_where_the_slice_ends(told):
    def work() -> str:
        await_only(asyncio.sleep(0))
        dawdle()
        await_only(asyncio.sleep(0.001))
        return "result"

    assert in_named_task(work) == "result"
    slow = next(each for each in told if "dawdle" in str(each.stack))
    assert slow.task == "the-caller"
    assert slow.seconds > THRESHOLD
    names = [line.rsplit(" ", 1)[1].rsplit(".", 1)[-1] for line in slow.stack]
    assert names.index("dawdle") < names.index("work")


def test_long_waits_are_not_told():
    told: list[SlowSlice] = []
    slices.watch(0.4, told.append)

    def work() -> None:
        await_only(asyncio.sleep(0.5))

    try:
        in_named_task(work)
    finally:
        slices.unwatch()
    assert told == []


def test_what_ends_with_an_error_is_told_too(told):
    def work() -> None:
        dawdle()
        raise KeyError("wrong")

    with pytest.raises(KeyError):
        in_named_task(work)
    assert "dawdle" in str(told[0].stack)


def test_what_goes_on_after_a_cancellation_is_told_too(told):
    def work() -> None:
        try:
            await_only(asyncio.Event().wait())
        finally:
            dawdle()

    async def main() -> None:
        task = asyncio.create_task(run(work))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(main())
    assert "dawdle" in str(told[-1].stack)


def test_where_no_thread_can_look_the_end_is_told(told, monkeypatch):
    monkeypatch.setattr(slices.Watch, "_look_at", lambda *_: None)

    def then_waits() -> None:
        spin()
        await_only(asyncio.sleep(0.001))

    in_named_task(then_waits)
    in_named_task(spin)
    first, second = told[0], told[-1]
    assert "then_waits" in first.stack[0]
    assert second.stack == (slices._place_of(spin),)
    assert "test_slices.py" in second.stack[0]


def test_an_error_of_whom_it_is_told_is_nobody_elses(caplog):
    def refuse(_: SlowSlice) -> None:
        raise KeyError("metrics are down")

    slices.watch(THRESHOLD, refuse)
    try:
        in_named_task(spin)
    finally:
        slices.unwatch()
    assert "event=slice_not_told error=KeyError" in caplog.text


def test_the_watcher_sleeps_while_nothing_runs_and_wakes_up(told):
    in_named_task(int)
    watch: Any = driver.watch
    wait_until(lambda: watch._sleeps)
    thread = watch._thread
    assert thread.is_alive()
    in_named_task(dawdle)
    assert watch._thread is thread
    assert "dawdle" in str(told[-1].stack)


def test_nobody_is_told_any_more_after_the_end(told):
    in_named_task(int)
    watch: Any = driver.watch
    slices.unwatch()
    assert driver.watch is None
    wait_until(lambda: not watch._thread.is_alive())
    told.clear()
    in_named_task(spin)
    assert told == []


def test_a_forked_child_has_a_watcher_of_its_own(told):
    in_named_task(int)
    told.clear()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            in_named_task(dawdle)
            code = 0 if "dawdle" in str(told[-1].stack) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert told == []

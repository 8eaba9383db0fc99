"""Calls in the bridge take up the greenlets of calls that have ended, and nothing else of them."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import traceback
from collections.abc import Callable
from typing import Any
from weakref import ref

import pytest

from django_poolkit.pools.bridge.driver import await_only, current, run
from django_poolkit.pools.bridge.shields import shielded
from tests.pools.postgres.tasks import run_on_each, until

__all__ = ["run_on_each"]

Run = Callable[[Callable[[], Any]], Any]

of_request: contextvars.ContextVar[Any] = contextvars.ContextVar("of_request", default=None)


class Thing:
    """Something that can be referred to weakly."""


def test_a_call_takes_up_the_greenlet_of_one_that_has_ended(run_on_each: Run) -> None:
    async def main() -> None:
        first, second = await run(current), await run(current)
        assert first is not None
        assert first is second

    run_on_each(main)


def test_calls_at_once_have_a_greenlet_each(run_on_each: Run) -> None:
    async def main() -> None:
        gate, here = asyncio.Event(), []

        def work() -> None:
            here.append(current())
            await_only(gate.wait())

        tasks = [asyncio.create_task(run(work)) for _ in range(50)]
        await until(lambda: len(here) == 50)
        gate.set()
        await asyncio.gather(*tasks)
        assert len(set(here)) == 50

    run_on_each(main)


@pytest.mark.parametrize("fails", [False, True])
def test_what_rests_refers_to_nothing_of_the_call_before(run_on_each: Run, fails: bool) -> None:
    def work(given: Thing) -> Thing:
        here = current()
        assert here is not None
        here.wrappers = {"thing": given}
        of_request.set(given)
        if fails:
            raise KeyError(given)
        return given

    async def call() -> ref[Thing]:
        thing = Thing()
        known = ref(thing)
        try:
            assert await run(work, thing) is thing
        except KeyError:
            assert fails
        return known

    async def main() -> None:
        # A task of its own, for the context to end with it.
        known = await asyncio.create_task(call())
        await until(lambda: known() is None)
        resting = await run(current)
        assert resting is not None
        assert resting.wrappers is None

    gc.collect()
    gc.disable()  # so that it is freed by itself
    try:
        run_on_each(main)
    finally:
        gc.enable()


def test_the_next_call_has_the_context_and_the_task_of_its_own(run_on_each: Run) -> None:
    def work() -> tuple[Any, Any]:
        here = current()
        assert here is not None
        assert here.task is not None
        return of_request.get(), here.task()

    async def call(value: str) -> None:
        of_request.set(value)
        assert await run(work) == (value, asyncio.current_task())

    async def main() -> None:
        for value in ("a", "b"):
            await asyncio.create_task(call(value))

    run_on_each(main)


def test_a_traceback_has_no_frame_that_another_call_goes_on_with(run_on_each: Run) -> None:
    def work() -> None:
        raise KeyError

    async def main() -> None:
        with pytest.raises(KeyError) as caught:
            await run(work)
        names = [frame.f_code.co_name for frame, _ in traceback.walk_tb(caught.value.__traceback__)]
        assert names[-1] == "work"
        assert "_work" not in names

    run_on_each(main)


def test_one_that_leaves_a_shield_up_is_not_taken_up(run_on_each: Run) -> None:
    shields = shielded()

    async def main() -> None:
        def work() -> Any:
            shields.__enter__()
            return current()

        first = await run(work)
        second = await run(current)
        assert first is not second
        shields.__exit__()
        assert second is not None
        assert second.shield == 0

    run_on_each(main)


def test_one_that_was_thrown_away_is_not_taken_up(run_on_each: Run) -> None:
    async def main() -> None:
        here: list[Any] = []

        def work() -> None:
            here.append(current())
            try:
                await_only(asyncio.sleep(60))
            except GeneratorExit:
                return  # as if nothing had happened

        coroutine = run(work)
        coroutine.send(None)
        coroutine.close()
        assert here[0].dead
        assert await run(current) is not here[0]

    run_on_each(main)


def test_a_cancellation_that_came_too_late_is_not_told_to_the_next(run_on_each: Run) -> None:
    def work() -> None:
        with shielded():
            await_only(asyncio.sleep(0))
        raise SystemError  # before it is told

    async def main() -> None:
        task = asyncio.create_task(run(work))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await run(lambda: await_only(asyncio.sleep(0, "fine"))) == "fine"

    run_on_each(main)


def test_what_rests_ends_with_its_thread() -> None:
    known: list[ref[Any]] = []

    async def main() -> None:
        gate = asyncio.Event()

        def work() -> None:
            known.append(ref(current()))
            await_only(gate.wait())

        tasks = [asyncio.create_task(run(work)) for _ in range(40)]  # more than rest
        await until(lambda: len(known) == 40)
        gate.set()
        await asyncio.gather(*tasks)

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    thread.join()
    gc.collect()
    assert [each for each in known if each() is not None] == []

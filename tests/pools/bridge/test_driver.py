"""The driver: synchronous code in a task, that waits as coroutines do."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import pytest

from django_poolkit.pools.bridge.driver import await_only, bridging, current, run
from django_poolkit.pools.bridge.shields import shielded
from tests.pools.postgres.tasks import run_on_each, until

__all__ = ["run_on_each"]

Run = Callable[[Callable[[], Any]], Any]

seen: contextvars.ContextVar[str] = contextvars.ContextVar("seen", default="nothing")


T = TypeVar("T")


async def echo(value: T) -> T:
    await asyncio.sleep(0)
    return value


def test_it_returns_what_the_function_returns_after_waits(run_on_each: Run) -> None:
    def work(start: int, *, step: int) -> int:
        for _ in range(3):
            start = await_only(echo(start + step))
        return start

    async def main() -> None:
        assert await run(work, 1, step=2) == 7

    run_on_each(main)


def test_the_loop_goes_on_while_a_function_waits(run_on_each: Run) -> None:
    async def main() -> list[str]:
        order: list[str] = []
        gate = asyncio.Event()

        def work() -> None:
            order.append("waits")
            await_only(gate.wait())
            order.append("goes on")

        task = asyncio.create_task(run(work))
        await until(lambda: order == ["waits"])
        order.append("loop")
        gate.set()
        await task
        return order

    assert run_on_each(main) == ["waits", "loop", "goes on"]


def test_an_error_of_what_is_awaited_is_raised_where_it_was_awaited(run_on_each: Run) -> None:
    async def fail() -> None:
        await asyncio.sleep(0)
        raise KeyError("inside")

    def work() -> str:
        try:
            await_only(fail())
        except KeyError as error:
            return str(error)
        return "no error"

    async def main() -> None:
        assert await run(work) == "'inside'"

    run_on_each(main)


def test_an_error_carries_the_frames_of_the_function(run_on_each: Run) -> None:
    def deep_inside() -> None:
        await_only(echo(None))
        raise ValueError("deep")

    async def main() -> None:
        with pytest.raises(ValueError, match="deep") as caught:
            await run(deep_inside)
        names = [entry.name for entry in caught.traceback]
        assert names[0] == "main"
        assert names[-1] == "deep_inside"

    run_on_each(main)


def test_context_variables_are_those_of_the_task(run_on_each: Run) -> None:
    async def receiver() -> None:
        assert seen.get() == "by the function"
        seen.set("by what it awaits")

    def work() -> str:
        assert seen.get() == "by the caller"
        seen.set("by the function")
        await_only(receiver())
        return seen.get()

    async def main() -> None:
        seen.set("by the caller")
        assert await run(work) == "by what it awaits"
        assert seen.get() == "by what it awaits"

    run_on_each(main)


def test_the_running_task_and_its_loop_are_seen_inside(run_on_each: Run) -> None:
    async def main() -> None:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()

        def work() -> None:
            here = current()
            assert here is not None
            assert here.task is not None
            assert asyncio.current_task() is here.task() is task
            assert asyncio.get_running_loop() is here.loop is loop

        await run(work)
        assert not bridging()
        assert current() is None

    run_on_each(main)


def test_a_second_loop_in_the_bridge_is_refused() -> None:
    coroutine = echo(1)

    def work() -> None:
        with pytest.raises(RuntimeError, match="running event loop"):
            asyncio.run(coroutine)

    async def main() -> None:
        await run(work)

    asyncio.run(main())
    coroutine.close()


def test_await_only_outside_of_the_bridge_says_what_to_do() -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match=r"await run\(function\)"):
            await_only(echo(1))

    asyncio.run(main())
    with pytest.raises(RuntimeError, match=r"await run\(function\)"):
        await_only(echo(1))


def test_within_the_bridge_a_function_is_simply_called() -> None:
    calls = []

    def inner() -> int:
        calls.append(current())
        return await_only(echo(5))

    def outer() -> int:
        calls.append(current())
        coroutine = run(inner)
        try:
            coroutine.send(None)
        except StopIteration as end:
            return int(end.value)
        raise AssertionError("it suspended the wrong one")

    async def main() -> None:
        assert await run(outer) == 5
        assert calls[0] is calls[1]

    asyncio.run(main())


def test_bridged_calls_in_what_a_bridged_call_awaits(run_on_each: Run) -> None:
    def inner(value: int) -> int:
        return await_only(echo(value)) + 1

    async def between() -> list[int]:
        return await asyncio.gather(*(run(inner, number) for number in range(3)))

    def outer() -> list[int]:
        return await_only(between())

    async def main() -> None:
        assert await run(outer) == [1, 2, 3]

    run_on_each(main)


def test_cancelling_raises_where_the_function_waits(run_on_each: Run) -> None:
    async def main() -> None:
        told = []

        def work() -> None:
            try:
                await_only(asyncio.Event().wait())
            except asyncio.CancelledError:
                told.append(True)
                await_only(echo(None))  # as a coroutine may
                raise

        task = asyncio.create_task(run(work))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert told == [True]

    run_on_each(main)


def test_a_shield_defers_a_cancellation_to_the_next_wait(run_on_each: Run) -> None:
    async def main() -> list[str]:
        order: list[str] = []
        gate = asyncio.Event()

        def work() -> None:
            with shielded():
                assert await_only(give(gate)) == "given"
                order.append("shielded")
                await_only(echo(None))
                order.append("still")
            order.append("after")
            try:
                await_only(echo(None))
            except asyncio.CancelledError:
                order.append("told")
                raise

        task = asyncio.create_task(run(work))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
        gate.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        return order

    assert run_on_each(main) == ["shielded", "still", "after", "told"]


async def give(gate: asyncio.Event) -> str:
    await gate.wait()
    return "given"


@pytest.mark.parametrize("fails", [False, True])
def test_a_deferred_cancellation_is_told_at_the_end_at_the_latest(fails: bool) -> None:
    async def main() -> None:
        gate, done = asyncio.Event(), []

        def work() -> None:
            with shielded():
                await_only(gate.wait())
            done.append(True)
            if fails:
                raise KeyError("what went wrong")

        task = asyncio.create_task(run(work))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
        gate.set()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        assert done == [True]
        assert isinstance(caught.value.__cause__, KeyError) is fails

    asyncio.run(main())


def test_a_cancellation_that_was_taken_back_is_not_told() -> None:
    async def main() -> None:
        gate = asyncio.Event()

        def work() -> str:
            with shielded():
                await_only(gate.wait())
            return await_only(echo("result"))

        task = asyncio.create_task(run(work))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
        task.uncancel()
        gate.set()
        assert await task == "result"

    asyncio.run(main())


def test_a_timeout_inside_a_shield_ends_in_time_after_it(run_on_each: Run) -> None:
    async def main() -> None:
        gate, order = asyncio.Event(), []

        def work() -> None:
            with shielded():
                await_only(gate.wait())
                order.append("whole")

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01) as bound:
                asyncio.get_running_loop().call_later(0.05, gate.set)
                await run(work)
        assert bound.expired()
        assert order == ["whole"]

    run_on_each(main)


def test_a_shield_is_nothing_outside_of_the_bridge() -> None:
    with shielded(), shielded():
        assert not bridging()


# -- tasks that are thrown away


def test_a_closed_coroutine_ends_the_function_which_cannot_wait_any_more() -> None:
    ended = []

    def work() -> None:
        try:
            await_only(asyncio.Event().wait())
        finally:
            try:
                await_only(echo("too late"))
            except GeneratorExit:
                ended.append(True)

    async def main() -> None:
        coroutine = run(work)
        coroutine.send(None)
        coroutine.close()
        assert ended == [True]

    asyncio.run(main())


def test_a_function_that_will_not_end_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    tries = []

    def work() -> None:
        while True:
            try:
                await_only(asyncio.Event().wait())
            except BaseException:
                tries.append(True)

    async def main() -> None:
        coroutine = run(work)
        coroutine.send(None)
        coroutine.close()

    asyncio.run(main())
    assert 100 <= len(tries) < 110
    assert "event=not_ended" in caplog.text


def test_what_another_thread_drops_ends_in_its_own() -> None:
    ended: list[int] = []

    def work() -> None:
        try:
            await_only(asyncio.Event().wait())
        finally:
            ended.append(threading.get_ident())

    async def main() -> None:
        coroutine = run(work)
        coroutine.send(None)
        held = [coroutine]
        del coroutine
        thread = threading.Thread(target=held.clear)
        thread.start()
        await asyncio.to_thread(thread.join)
        gc.collect()
        await until(lambda: ended == [threading.get_ident()])

    asyncio.run(main())


_WITHOUT = """
import sys
sys.modules["greenlet"] = None
from django_poolkit.pools.postgres import ConnectionPool
try:
    import django_poolkit.pools.bridge.driver
except ImportError as error:
    print(error)
"""


def test_without_greenlet_the_extra_is_named() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", _WITHOUT], capture_output=True, text=True, timeout=60, check=True
    )
    assert ended.stdout.startswith("the bridge needs greenlet")
    assert "pip install django-poolkit[bridge]" in ended.stdout


def test_the_pools_load_no_bridge() -> None:
    load = "import sys, django_poolkit.pools.postgres; print('greenlet' in sys.modules)"
    ended = subprocess.run(
        [sys.executable, "-c", load], capture_output=True, text=True, timeout=60, check=True
    )
    assert ended.stdout == "False\n"

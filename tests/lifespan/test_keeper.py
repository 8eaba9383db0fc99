"""One resource: opened, kept, closed, and tried again, by one task."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import anyio
import pytest

from django_poolkit.lifespan import keeper as keeper_module
from django_poolkit.lifespan.base import Resource
from django_poolkit.lifespan.keeper import Keeper, Status
from tests.lifespan.support import SECRET, Diary, looped, until

pytestmark = pytest.mark.core

LOGGER = "django_poolkit.lifespan"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper_module, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(keeper_module, "_LONGEST_PAUSE", 0.02)


@looped
async def test_it_is_ready_with_its_value_and_then_closed(diary: Diary) -> None:
    keeper = Keeper(diary.resource("a"), 5.0)
    assert keeper.status == Status("pending")
    assert await keeper.settled(5.0) == Status("ready")
    assert keeper.value == "A"
    await keeper.stop(5.0)
    assert keeper.status == Status("closed")
    assert keeper.value is None
    assert diary.events == ["opening a", "open a", "closing a", "close a"]


@looped
async def test_while_it_is_being_closed_nobody_gets_it(diary: Diary) -> None:
    keeper = Keeper(diary.resource("a", closing=0.05), 5.0)
    await keeper.settled(5.0)
    stopping = asyncio.create_task(keeper.stop(5.0))
    await until(lambda: "closing a" in diary.events)
    assert keeper.status.state == "closed"
    assert keeper.value is None
    await stopping


@looped
async def test_a_required_one_has_one_attempt(diary: Diary) -> None:
    keeper = Keeper(diary.resource("a", opening="fail"), 5.0)
    assert await keeper.settled(5.0) == Status("failed", "ConnectionError")
    await until(keeper._task.done)
    await keeper.stop(5.0)
    assert diary.events == ["opening a"]


@looped
async def test_an_optional_one_is_tried_until_it_opens(
    diary: Diary, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, LOGGER):
        keeper = Keeper(diary.resource("a", tries=3, required=False), 5.0)
        assert await keeper.settled(5.0) == Status("failed", "ConnectionError")
        await until(lambda: keeper.status.state == "ready")
        assert diary.said("opening") == ["a"] * 4
        await keeper.stop(5.0)
    # The same failure is told of once.
    assert caplog.text.count("event=open_failed") == 1
    assert SECRET not in caplog.text


@looped
async def test_an_optional_one_that_never_opened_stops_at_once(diary: Diary) -> None:
    keeper = Keeper(diary.resource("a", opening="fail", required=False), 5.0)
    await keeper.settled(5.0)
    async with asyncio.timeout(1.0):
        await keeper.stop(5.0)
    assert keeper.status == Status("closed")


@looped
async def test_an_attempt_that_hangs_ends_with_its_time(
    diary: Diary, caplog: pytest.LogCaptureFixture
) -> None:
    keeper = Keeper(diary.resource("a", opening="hang"), 0.05)
    status = await keeper.settled(5.0)
    assert status == Status("failed", "resource 'a': not open within 0.05 s")
    assert "await asyncio.sleep(3600)" in caplog.text, "where it hangs is shown"
    await keeper.stop(5.0)


@looped
async def test_the_first_attempt_may_have_less_time(diary: Diary) -> None:
    keeper = Keeper(diary.resource("a", opening="hang"), 9.0, first_timeout=0.05)
    assert "0.05 s" in (await keeper.settled(5.0)).text
    await keeper.stop(5.0)


@looped
async def test_a_timeout_of_the_resource_itself_is_not_taken_for_ours() -> None:
    @asynccontextmanager
    async def enter() -> AsyncIterator[None]:
        if SECRET:
            raise TimeoutError(SECRET)
        yield

    keeper = Keeper(Resource(name="a", enter=enter), 5.0)
    assert await keeper.settled(5.0) == Status("failed", "TimeoutError")
    await keeper.stop(5.0)


@looped
async def test_an_attempt_under_way_is_ended_by_stop(diary: Diary) -> None:
    keeper = Keeper(diary.resource("a", opening="hang", required=False), 60.0)
    await until(lambda: diary.events == ["opening a"])
    async with asyncio.timeout(1.0):
        await keeper.stop(60.0)
    assert keeper.status == Status("closed")


@looped
async def test_a_close_that_hangs_is_cut(diary: Diary, caplog: pytest.LogCaptureFixture) -> None:
    keeper = Keeper(diary.resource("a", closing="hang"), 5.0)
    await keeper.settled(5.0)
    await keeper.stop(0.05)
    assert diary.events[-1] == "closing a"
    assert "resource=a event=close_timeout seconds=0.05" in caplog.text


@looped
async def test_a_close_with_several_things_that_hang_is_cut_in_each(diary: Diary) -> None:
    keeper = Keeper(diary.resource("a", closing="stubborn"), 5.0)
    await keeper.settled(5.0)
    async with asyncio.timeout(2.0):
        await keeper.stop(0.01)
    assert keeper._task.done()


def test_what_cannot_be_cancelled_is_left_to_itself(caplog: pytest.LogCaptureFixture) -> None:
    gone_on = 0

    async def main() -> None:
        release = asyncio.Event()

        @asynccontextmanager
        async def enter() -> AsyncIterator[None]:
            nonlocal gone_on
            yield
            while not release.is_set():
                try:
                    await release.wait()
                except asyncio.CancelledError:
                    gone_on += 1

        keeper = Keeper(Resource(name="a", enter=enter), 5.0)
        await keeper.settled(5.0)
        async with asyncio.timeout(5.0):
            await keeper.stop(0.01)
        assert not keeper._task.done()
        release.set()

    asyncio.run(main())
    assert gone_on > 1
    assert "resource=a event=abandoned" in caplog.text


@looped
async def test_a_close_that_fails_is_told_of_with_its_place(
    diary: Diary, caplog: pytest.LogCaptureFixture
) -> None:
    keeper = Keeper(diary.resource("a", closing="fail"), 5.0)
    await keeper.settled(5.0)
    await keeper.stop(5.0)
    assert "resource=a event=close_failed error=ConnectionError\n" in caplog.text
    assert "in go_wrong" in caplog.text
    assert SECRET not in caplog.text


# -- what ends by itself


@looped
async def test_one_that_ends_while_it_should_be_open_is_opened_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broken = asyncio.Event()
    groups: list[anyio.abc.TaskGroup] = []

    async def break_down() -> None:
        await broken.wait()
        broken.clear()
        raise ConnectionError(SECRET)

    @asynccontextmanager
    async def enter() -> AsyncIterator[anyio.abc.TaskGroup]:
        async with anyio.create_task_group() as tasks:
            groups.append(tasks)
            tasks.start_soon(break_down)
            yield tasks
            tasks.cancel_scope.cancel()

    keeper = Keeper(Resource(name="group", enter=enter), 5.0)
    await keeper.settled(5.0)
    broken.set()
    await until(lambda: len(groups) == 2 and keeper.status.state == "ready")
    assert keeper.value is groups[1]
    await keeper.stop(5.0)
    assert keeper.status == Status("closed")
    assert "resource=group event=ended error=ExceptionGroup of ConnectionError" in caplog.text
    assert SECRET not in caplog.text


@looped
async def test_one_whose_own_cancel_scope_is_cancelled_is_opened_again() -> None:
    groups: list[anyio.abc.TaskGroup] = []

    @asynccontextmanager
    async def enter() -> AsyncIterator[anyio.abc.TaskGroup]:
        async with anyio.create_task_group() as tasks:
            groups.append(tasks)
            yield tasks

    keeper = Keeper(Resource(name="group", enter=enter), 5.0)
    await keeper.settled(5.0)
    groups[0].cancel_scope.cancel()
    await until(lambda: len(groups) == 2 and keeper.status.state == "ready")
    await keeper.stop(5.0)


@looped
async def test_a_task_group_of_asyncio_works_as_well() -> None:
    done = asyncio.Event()

    async def work() -> None:
        await asyncio.sleep(0.01)
        done.set()

    @asynccontextmanager
    async def enter() -> AsyncIterator[asyncio.TaskGroup]:
        async with asyncio.TaskGroup() as tasks:
            yield tasks

    keeper = Keeper(Resource(name="group", enter=enter), 5.0)
    await keeper.settled(5.0)
    keeper.value.create_task(work())
    await keeper.stop(5.0)
    assert done.is_set(), "it waits for its tasks"


@looped
async def test_a_task_group_of_asyncio_whose_task_fails_is_opened_again() -> None:
    groups: list[asyncio.TaskGroup] = []

    @asynccontextmanager
    async def enter() -> AsyncIterator[asyncio.TaskGroup]:
        async with asyncio.TaskGroup() as tasks:
            groups.append(tasks)
            yield tasks

    async def fail() -> None:
        raise ConnectionError(SECRET)

    keeper = Keeper(Resource(name="group", enter=enter), 5.0)
    await keeper.settled(5.0)
    keeper.value.create_task(fail())
    await until(lambda: len(groups) == 2 and keeper.status.state == "ready")
    await keeper.stop(5.0)


@looped
async def test_after_it_was_open_the_pauses_are_short_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    outages = 0

    def pauses() -> Iterator[float]:
        nonlocal outages
        outages += 1
        while True:
            yield 0.0

    monkeypatch.setattr(keeper_module, "_pauses", pauses)

    @asynccontextmanager
    async def enter() -> AsyncIterator[None]:
        async with asyncio.timeout(0):
            yield

    keeper = Keeper(Resource(name="a", enter=enter), 5.0)
    await until(lambda: outages >= 4)
    await keeper.stop(5.0)


def test_a_task_group_is_closed_as_ever_where_the_loop_ends() -> None:
    """`asyncio.run()` cancels all tasks, and the group must not take that for its own."""
    events = []

    @asynccontextmanager
    async def enter() -> AsyncIterator[anyio.abc.TaskGroup]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(asyncio.sleep, 3600)
            yield tasks
            tasks.cancel_scope.cancel()
        events.append("close")

    async def main() -> None:
        keeper = Keeper(Resource(name="group", enter=enter), 5.0, loop_ends=lambda: True)
        await keeper.settled(5.0)

        async def stop() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                await keeper.stop(5.0)

        _stopping.append(asyncio.create_task(stop()))
        await asyncio.sleep(0)

    asyncio.run(main())
    assert events == ["close"]


_stopping: list[asyncio.Task[None]] = []


@looped
async def test_a_cancelled_future_of_somebody_else_is_a_failure(diary: Diary) -> None:
    @asynccontextmanager
    async def enter() -> AsyncIterator[None]:
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future
        yield

    keeper = Keeper(Resource(name="a", enter=enter), 5.0)
    assert await keeper.settled(5.0) == Status("failed", "CancelledError")
    await keeper.stop(5.0)


# -- what is no resource


@pytest.mark.parametrize(
    ("returned", "text"),
    [
        (None, "its function returned nothing, where an async context manager is due"),
        ("redis", "its function returned a str, where an async context manager is due"),
    ],
)
def test_a_function_that_returns_none_is_told_so(returned: Any, text: str) -> None:
    @looped
    async def main() -> None:
        keeper = Keeper(Resource(name="a", enter=lambda: returned), 5.0)
        assert await keeper.settled(5.0) == Status("failed", f"resource 'a': {text}")
        await keeper.stop(5.0)

    main()


@looped
async def test_a_coroutine_is_not_left_unawaited() -> None:
    async def connect() -> str:
        return "redis"

    enter: Any = lambda: connect()  # noqa: E731
    keeper = Keeper(Resource(name="a", enter=enter), 5.0)
    assert "returned a coroutine" in (await keeper.settled(5.0)).text
    await keeper.stop(5.0)


@looped
async def test_a_generator_without_a_yield_is_told_so() -> None:
    @asynccontextmanager
    async def enter() -> AsyncIterator[None]:
        if SECRET == "":
            yield

    keeper = Keeper(Resource(name="a", enter=enter), 5.0)
    assert (await keeper.settled(5.0)).text == "resource 'a': its function yields nothing"
    await keeper.stop(5.0)


@looped
async def test_it_does_not_run_in_the_context_of_who_asks() -> None:
    who: ContextVar[str] = ContextVar("who", default="nobody")
    who.set("a request")

    @asynccontextmanager
    async def enter() -> AsyncIterator[str]:
        yield who.get()

    keeper = Keeper(Resource(name="a", enter=enter), 5.0)
    await keeper.settled(5.0)
    assert keeper.value == "nobody"
    await keeper.stop(5.0)

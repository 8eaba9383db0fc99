"""Who gets what a resource is open as: with a lifespan and without, from loops and threads."""

from __future__ import annotations

import asyncio
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async

from django_poolkit import lifespan
from django_poolkit.asgi import Poolkit
from django_poolkit.http import background as background_module
from django_poolkit.http.background import background
from django_poolkit.lifespan import ResourceError, access, course
from django_poolkit.lifespan import span as span_module
from django_poolkit.pools.errors import PoolClosed, WrongLoop
from django_poolkit.testing.lifespan import AsyncSite
from tests.lifespan.support import SECRET, Diary, looped, until

ROOT = Path(__file__).parents[2]


async def nothing(scope: Any, receive: Any, send: Any) -> None:
    """An application without a lifespan."""


APP = Poolkit(nothing)


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    access.close_all()


class Thing:
    """An object of its own for each opening."""


@pytest.fixture
def thing() -> lifespan.Declared[Thing]:
    @lifespan.resource
    async def thing() -> AsyncIterator[Thing]:
        yield Thing()

    return thing


# -- with a lifespan


@looped
async def test_everybody_gets_the_one_that_the_server_opened(
    thing: lifespan.Declared[Thing],
) -> None:
    async with AsyncSite(APP) as site:
        value = await thing.aget()
        assert value is thing.get() is site.state["thing"]
        # A synchronous view, one that goes back to the loop, and a thread of somebody's.
        assert await sync_to_async(thing.get)() is value
        assert await sync_to_async(async_to_sync(thing.aget))() is value
        assert await asyncio.to_thread(thing.get) is value


@looped
async def test_another_event_loop_is_told_so(thing: lifespan.Declared[Thing]) -> None:
    async def elsewhere() -> None:
        with pytest.raises(WrongLoop, match="'thing' belongs to another event loop"):
            await thing.aget()
        with pytest.raises(WrongLoop):
            thing.get()

    async with AsyncSite(APP):
        await asyncio.to_thread(lambda: asyncio.run(elsewhere()))


@looped
async def test_after_the_end_everybody_is_told_so(thing: lifespan.Declared[Thing]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(course, "forget", lambda: None)  # the site's, for the next test
        async with AsyncSite(APP):
            pass
        with pytest.raises(PoolClosed, match="'thing' is closed: this process is shutting down"):
            await thing.aget()
        with pytest.raises(PoolClosed):
            await asyncio.to_thread(thing.get)

        @lifespan.resource
        async def late() -> AsyncIterator[None]:
            yield

        with pytest.raises(PoolClosed, match="'late' is not opened any more"):
            late.get()
    course.forget()


@looped
async def test_one_that_is_not_ready_says_why(diary: Diary) -> None:
    failed = diary.declare("failed", opening="fail", required=False)
    pending = diary.declare("pending", opening=1.5, required=False)
    async with AsyncSite(APP):
        with pytest.raises(ResourceError, match=r"'failed' is not ready: ConnectionError$"):
            await failed.aget()
        with pytest.raises(ResourceError, match="'pending' is not ready: its first attempt has"):
            pending.get()


@looped
async def test_one_that_was_declared_too_late_says_so(diary: Diary) -> None:
    async with AsyncSite(APP):
        late = diary.declare("late")
        with pytest.raises(ResourceError, match="'late' is not open: it was declared after"):
            await late.aget()


@looped
async def test_a_resource_may_use_those_before_it_to_the_end(
    thing: lifespan.Declared[Thing],
) -> None:
    seen = []

    @lifespan.resource
    async def after() -> AsyncIterator[None]:
        seen.append(await thing.aget())
        yield
        seen.append(await thing.aget())

    async with AsyncSite(APP):
        assert len(seen) == 1
    assert seen[0] is seen[1]


def test_errors_survive_a_process_border() -> None:
    error = pickle.loads(pickle.dumps(ResourceError("resource 'a' is not ready")))
    assert (type(error), str(error)) == (ResourceError, "resource 'a' is not ready")


# -- without


def test_a_loop_opens_one_and_closes_it_as_it_ends(diary: Diary) -> None:
    a = diary.declare("a", closing=0.01)
    b = diary.declare("b", closing=0.02)

    async def main() -> None:
        assert await a.aget() == "A"
        assert await b.aget() == "B"
        assert a.get() == await a.aget() == "A"

    for times in (1, 2):
        asyncio.run(main())
        assert diary.events.count("open a") == times
        assert diary.events[-4:] == ["closing b", "close b", "closing a", "close a"]


def test_requests_for_one_at_once_open_one(diary: Diary) -> None:
    a = diary.declare("a", opening=0.05)

    async def main() -> None:
        assert await asyncio.gather(*[a.aget() for _ in range(5)]) == ["A"] * 5

    asyncio.run(main())
    assert diary.said("open") == ["a"]


def test_a_coroutine_must_await_the_opening(thing: lifespan.Declared[Thing]) -> None:
    async def main() -> None:
        with pytest.raises(ResourceError, match=r"'thing' is not open on this event loop: .*aget"):
            thing.get()

    asyncio.run(main())


def test_threads_share_one_on_a_loop_in_the_background(diary: Diary) -> None:
    a = diary.declare("a", opening=0.02)
    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(lambda _: a.get(), range(40))) == {"A"}
    assert diary.said("open") == ["a"]
    access.close_all()
    assert diary.said("close") == ["a"]
    assert a.get() == "A", "and open anew"


def test_a_failure_is_for_who_asks_and_the_next_tries_again(diary: Diary) -> None:
    a = diary.declare("a", tries=1)
    with pytest.raises(
        ResourceError, match=r"'a': could not be opened: ConnectionError$"
    ) as caught:
        a.get()
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None
    assert a.get() == "A"


def test_who_asks_waits_for_an_optional_one_and_has_its_only_attempt(
    diary: Diary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(span_module, "_PATIENCE", 0.01)
    a = diary.declare("a", opening=0.1, tries=1, required=False)

    async def main() -> None:
        with pytest.raises(ResourceError, match="could not be opened"):
            await a.aget()
        await asyncio.sleep(0.7)
        assert diary.said("opening") == ["a"], "not tried again behind anybody's back"
        assert await a.aget() == "A"

    asyncio.run(main())


def test_one_that_ended_by_itself_is_open_once_when_it_is_asked_for_again(diary: Diary) -> None:
    fails: list[asyncio.Event] = []

    @asynccontextmanager
    async def enter() -> AsyncIterator[str]:
        async with asyncio.TaskGroup() as tasks:
            fails.append(asyncio.Event())
            task = tasks.create_task(fail(fails[-1]))
            diary.events.append("open a")
            yield "A"
            task.cancel()
        diary.events.append("close a")

    async def fail(told: asyncio.Event) -> None:
        await told.wait()
        raise ConnectionError

    a = lifespan.resource(name="a")(enter)

    async def main() -> None:
        assert await a.aget() == "A"
        fails[0].set()
        [span] = access._spans.values()
        await until(lambda: span.status()["a"].state == "failed")
        assert [*await asyncio.gather(a.aget(), a.aget())] == ["A", "A"]
        await asyncio.sleep(0.7)
        assert diary.said("open") == ["a", "a"], "not by whom had it before as well"
        assert a.get() == "A"

    asyncio.run(main())
    assert diary.said("close") == ["a"]


def test_one_that_hangs_is_given_up(diary: Diary) -> None:
    a = diary.declare("a", opening="hang", start_timeout=0.05)
    with pytest.raises(ResourceError, match=r"'a': not open within 0\.05 s"):
        a.get()

    async def main() -> None:
        with pytest.raises(ResourceError, match=r"'a': not open within 0\.05 s"):
            await a.aget()

    asyncio.run(main())


def test_a_loop_that_was_stopped_and_left_is_closed_at_exit(diary: Diary) -> None:
    a = diary.declare("a")
    loop = asyncio.new_event_loop()
    assert loop.run_until_complete(a.aget()) == "A"
    access.close_all()
    assert diary.said("close") == ["a"]
    loop.close()


def test_a_loop_that_runs_elsewhere_is_closed_at_exit(diary: Diary) -> None:
    a = diary.declare("a")
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    assert asyncio.run_coroutine_threadsafe(a.aget(), loop).result(5) == "A"
    access.close_all()
    assert diary.said("close") == ["a"]
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@looped
async def test_a_request_that_is_cancelled_does_not_end_the_opening(diary: Diary) -> None:
    a = diary.declare("a", opening=0.05)
    first = asyncio.create_task(a.aget())
    await until(lambda: "opening a" in diary.events)
    first.cancel()
    assert await a.aget() == "A"
    assert diary.said("opening") == ["a"]
    await access._spans[asyncio.get_running_loop()].end()


def test_a_forked_child_opens_its_own(diary: Diary) -> None:
    a = diary.declare("a")
    assert a.get() == "A"
    parent = background.loop
    child = os.fork()
    if child == 0:
        code = 1
        try:
            assert a.get() == "A"
            assert diary.said("open") == ["a", "a"]
            assert background.loop is not parent
            begun = time.monotonic()
            access.close_all()
            assert diary.said("close") == ["a"], "its own, and not that of its parent"
            assert time.monotonic() - begun < 10, "for which it would wait in vain"
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert a.get() == "A"
    assert diary.said("open") == ["a"]


PROGRAM = """
import asyncio, sys
import django
from django.conf import settings
settings.configure(POOLKIT={})
django.setup()
from django_poolkit import lifespan

@lifespan.resource
async def a():
    print("open", flush=True)
    yield "A"
    print("close", flush=True)

%s
"""


@pytest.mark.parametrize(
    "use",
    [
        "a.get()",
        "asyncio.run(a.aget())",
        "loop = asyncio.new_event_loop(); loop.run_until_complete(a.aget())",
        "from threading import Thread; each = Thread(target=a.get); each.start(); each.join()",
    ],
)
def test_a_program_closes_what_it_opened_as_it_ends(use: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM % use],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.stdout.split() == ["open", "close"], done.stderr
    assert done.returncode == 0
    assert "pending" not in done.stderr


def test_where_gevent_has_taken_the_threads_the_error_is_of_the_resource(
    thing: lifespan.Declared[Thing], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background_module, "is_patched", lambda module: True)
    with pytest.raises(ResourceError, match=r"'thing' cannot be opened.*gevent") as caught:
        thing.get()
    assert "client_sessions" not in str(caught.value)

"""The one event loop in a thread: it begins with the first call, and ends what is left on it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from django_poolkit import PoolClosed
from django_poolkit.http.background import NAME, Background
from django_poolkit.testing.waiting import wait_until


@pytest.fixture
def background() -> Iterator[Background]:
    background = Background()
    yield background
    background.stop(5.0)


@pytest.fixture
def older() -> set[threading.Thread]:
    """What runs before a test: that of the process, which other tests may have used, among it."""
    return set(threading.enumerate())


@pytest.fixture
def threads(older: set[threading.Thread]) -> Callable[[], int]:
    return lambda: [thread.name for thread in set(threading.enumerate()) - older].count(NAME)


async def answer() -> int:
    return 42


def test_one_thread_serves_all_who_race_for_it(
    background: Background, threads: Callable[[], int]
) -> None:
    assert threads() == 0
    barrier = threading.Barrier(16)

    def work(_: int) -> int:
        barrier.wait(10)
        return background.run(answer)

    with ThreadPoolExecutor(16) as executor:
        assert list(executor.map(work, range(16))) == [42] * 16
    assert threads() == 1
    background.stop(5.0)
    assert threads() == 0
    assert background.run(answer) == 42


def test_errors_of_a_coroutine_are_those_of_the_call(background: Background) -> None:
    async def fail() -> None:
        raise LookupError("no")

    with pytest.raises(LookupError, match="no"):
        background.run(fail)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_coroutine_that_exits_ends_no_call_but_its_own(
    background: Background, threads: Callable[[], int]
) -> None:
    async def leave() -> None:
        raise SystemExit(3)

    for _ in range(20):
        with pytest.raises(SystemExit):
            background.run(leave)
        # The loop may be on its way out, or gone: it is begun, or there is another.
        with suppress(PoolClosed):
            assert background.run(answer) == 42
    wait_until(lambda: threads() <= 1)
    assert background.run(answer) == 42


def test_stopping_cancels_what_runs_and_lets_it_clean_up(background: Background) -> None:
    began, cleaned = threading.Event(), threading.Event()

    async def wait() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.set()

    with ThreadPoolExecutor(1) as executor:
        call = executor.submit(background.run, wait)
        assert began.wait(5)
        background.stop(5.0)
        with pytest.raises(PoolClosed):
            call.result(5)
    assert cleaned.is_set()


def test_no_call_hangs_that_races_with_the_end(background: Background) -> None:
    ended = threading.Event()

    def work(_: int) -> int:
        calls = 0
        while not ended.is_set():
            with suppress(PoolClosed):
                assert background.run(answer) == 42
            calls += 1
        return calls

    with ThreadPoolExecutor(4) as executor:
        results = [executor.submit(work, n) for n in range(4)]
        for _ in range(30):
            background.run(answer)
            background.stop(5.0)
        ended.set()
        assert all(result.result(10) for result in results)


def test_stopping_takes_no_longer_than_its_time(
    background: Background, threads: Callable[[], int]
) -> None:
    began, held = threading.Event(), threading.Event()

    async def block() -> bool:
        began.set()
        return held.wait(20)  # as nobody should: the whole loop stands still

    with ThreadPoolExecutor(1) as executor:
        call = executor.submit(background.run, block)
        assert began.wait(20)
        started = time.monotonic()
        background.stop(0.1)
        assert time.monotonic() - started < 5
        assert threads() == 1
        held.set()
        assert call.result(5) is True
    wait_until(lambda: threads() == 0)

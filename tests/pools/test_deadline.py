"""A deadline by itself: where it holds, and which of several."""

from __future__ import annotations

import asyncio
import inspect
import math
import threading
from contextvars import copy_context
from typing import Any

import pytest

from django_poolkit import Deadline, deadline
from django_poolkit.pools.deadline import current


def test_it_holds_in_the_block_and_nowhere_else():
    with deadline(2.0) as here:
        assert current() is here
        assert here.seconds == 2.0
        assert 0.0 < here.left() <= 2.0
    assert current() is None


def test_of_nested_ones_the_tighter_holds():
    with deadline(60.0) as outer:
        with deadline(90.0) as inner:
            assert inner is outer
        with deadline(5.0) as inner:
            assert current() is inner is not outer
        assert current() is outer


def test_one_object_may_be_entered_within_itself():
    block = deadline(60.0)
    with block as outer, block as inner:
        assert inner is outer
    assert current() is None


def test_an_error_ends_it():
    with pytest.raises(LookupError), deadline(60.0):
        raise LookupError
    assert current() is None


def test_a_decorated_function_has_the_whole_time_at_each_call():
    @deadline(60.0)
    def work(number: int) -> tuple[Deadline | None, int]:
        return current(), number

    (first, one), (second, two) = work(1), work(2)
    assert (one, two) == (1, 2)
    assert first is not None
    assert second is not None
    assert second.at > first.at
    assert work.__name__ == "work"


def test_a_decorated_coroutine_function_stays_one():
    @deadline(60.0)
    async def work() -> Deadline | None:
        await asyncio.sleep(0)
        return current()

    assert inspect.iscoroutinefunction(work)
    found: Any = asyncio.run(work())
    assert isinstance(found, Deadline)


def test_tasks_have_each_their_own():
    async def work(seconds: float) -> float:
        with deadline(seconds) as here:
            await asyncio.sleep(0)
            assert current() is here
            return here.seconds

    async def both() -> list[float]:
        return list(await asyncio.gather(work(20.0), work(30.0)))

    assert asyncio.run(both()) == [20.0, 30.0]


def test_a_thread_has_none_unless_it_is_given_the_context():
    found: list[Deadline | None] = []
    with deadline(60.0) as here:
        context = copy_context()
        for target in (current, lambda: context.run(current)):
            thread = threading.Thread(target=lambda call=target: found.append(call()))
            thread.start()
            thread.join()
    assert found[1] is here


def test_a_generator_is_refused():
    with pytest.raises(TypeError, match=r"generator .*rows"):

        @deadline(1.0)
        def rows() -> Any:
            yield 1


@pytest.mark.parametrize("seconds", [0, -1.0, math.inf, math.nan, True, "2", None])
def test_a_time_that_is_none_is_refused(seconds):
    with pytest.raises(ValueError, match="deadline"):
        deadline(seconds)

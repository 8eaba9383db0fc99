"""What is open on one event loop: in order, and within budgets."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from django_poolkit.lifespan import span as span_module
from django_poolkit.lifespan.base import ResourceError
from django_poolkit.lifespan.keeper import Keeper
from django_poolkit.lifespan.span import Span
from tests.lifespan.support import Diary, looped, span_of, until


def now() -> float:
    return asyncio.get_running_loop().time()


@looped
async def test_they_open_in_their_order_and_close_in_reverse(diary: Diary) -> None:
    span = span_of()
    await span.open_all(
        [diary.resource("a", opening=0.03), diary.resource("b"), diary.resource("c", opening=0.01)]
    )
    assert diary.said("open") == ["a", "b", "c"]
    assert span.values() == {"a": "A", "b": "B", "c": "C"}
    await span.close(5.0)
    assert diary.said("closing") == diary.said("close") == ["c", "b", "a"]


@looped
async def test_the_first_that_fails_ends_the_opening(diary: Diary) -> None:
    span = span_of()
    with pytest.raises(ResourceError) as caught:
        await span.open_all(
            [diary.resource("a"), diary.resource("b", opening="fail"), diary.resource("c")]
        )
    assert str(caught.value) == "resource 'b': could not be opened: ConnectionError"
    assert diary.said("opening") == ["a", "b"]
    await span.close(5.0)
    assert diary.said("close") == ["a"]


@looped
async def test_one_that_hangs_has_its_own_time(diary: Diary) -> None:
    span = span_of()
    with pytest.raises(ResourceError, match=r"^resource 'a': not open within 0\.05 s$"):
        await span.open_all([diary.resource("a", opening="hang", start_timeout=0.05)])
    await span.close(5.0)


@looped
async def test_all_together_have_the_time_of_the_start(diary: Diary) -> None:
    span = span_of(start_timeout=0.3)
    begun = now()
    resources = [diary.resource(name, opening=0.2, required=False) for name in "abcd"]
    with pytest.raises(ResourceError, match=r"resource 'z': not open within 0\.00 s"):
        await span.open_all([*resources, diary.resource("z", opening=0.2)])
    assert now() - begun < 1.5
    await span.close(5.0)


@looped
async def test_one_that_does_not_let_itself_be_ended_holds_nobody_up(
    diary: Diary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(span_module, "_SLACK", 0.05)
    span = span_of()
    with pytest.raises(ResourceError, match="'a': could not be opened: it does not end its"):
        await span.open_all([diary.resource("a", opening="stubborn", start_timeout=0.05)])
    await span.close(5.0)


@looped
async def test_an_optional_one_is_waited_for_a_moment_and_no_longer(
    diary: Diary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(span_module, "_PATIENCE", 0.2)
    span = span_of()
    state: dict[str, Any] = span._state  # type: ignore[assignment]
    await span.open_all(
        [
            diary.resource("soon", opening=0.01, required=False),
            diary.resource("late", opening=0.5, required=False),
            diary.resource("z"),
        ]
    )
    assert diary.said("open") == ["soon", "z"]
    assert {name: each.state for name, each in span.status().items()} == {
        "soon": "ready", "late": "pending", "z": "ready",
    }  # fmt: skip
    assert state == {"soon": "SOON", "z": "Z"}
    keeper = span.keeper("late")
    assert keeper is not None
    await keeper.settled(5.0)
    assert state == {"soon": "SOON", "z": "Z", "late": "LATE"}
    await span.close(5.0)
    assert state == {}
    assert diary.said("close") == ["z", "late", "soon"], "by their order, not by their time"


@looped
async def test_one_that_hangs_or_fails_keeps_no_other_open(diary: Diary) -> None:
    span = span_of(resource_stop_timeout=0.05)
    await span.open_all(
        [
            diary.resource("a"),
            diary.resource("b", closing="hang"),
            diary.resource("c", closing="fail"),
            diary.resource("d"),
            diary.resource("e", closing="hang", stop_timeout=0.02),
        ]
    )
    begun = now()
    await span.close(5.0)
    assert diary.said("closing") == ["e", "d", "c", "b", "a"]
    assert diary.said("close") == ["d", "a"]
    assert now() - begun < 1.0


@looped
async def test_none_takes_the_time_of_those_that_come_after_it(
    diary: Diary, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, float] = {}

    async def stop(self: Keeper, seconds: float) -> None:
        given[self.name] = seconds
        self.cancel()
        await asyncio.wait({self._task})

    span = span_of(resource_stop_timeout=60.0)
    await span.open_all([diary.resource(name) for name in "abcd"])
    with monkeypatch.context() as patch:
        patch.setattr(Keeper, "stop", stop)
        await span.close(2.0)
    assert given == pytest.approx({"d": 1.25, "c": 1.5, "b": 1.75, "a": 2.0}, abs=0.2)


@looped
async def test_where_no_time_is_left_each_has_a_moment(diary: Diary) -> None:
    span = span_of()
    await span.open_all([diary.resource("a", closing=0.02), diary.resource("b", closing="hang")])
    await span.close(-1.0)
    assert diary.said("close") == ["a"]


@looped
async def test_a_close_that_is_cancelled_ends_the_rest(diary: Diary) -> None:
    span = span_of()
    await span.open_all([diary.resource("a"), diary.resource("b", closing=0.05)])
    closing = asyncio.create_task(span.close(5.0))
    await until(lambda: "closing b" in diary.events)
    closing.cancel()
    await asyncio.wait({closing})
    assert closing.cancelled()
    await until(lambda: {"close b", "close a"} <= set(diary.events))


def test_a_loop_that_ends_closes_in_order(diary: Diary) -> None:
    """`asyncio.run()` cancels all tasks at once."""

    async def main() -> None:
        owner = asyncio.current_task()
        assert owner is not None
        span = Span(span_of().config, loop_ends=lambda: serving.cancelling() > 0)
        await span.open_all([diary.resource("a", closing=0.01), diary.resource("b", closing=0.03)])

        async def serve() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                await span.close(5.0)

        serving = asyncio.create_task(serve())
        await asyncio.sleep(0)

    asyncio.run(main())
    assert diary.events[4:] == ["closing b", "close b", "closing a", "close a"]

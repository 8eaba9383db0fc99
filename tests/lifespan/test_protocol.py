"""The lifespan protocol: what a server hears, and what becomes of the application within."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from django.core.handlers.asgi import ASGIHandler
from django.test import override_settings
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from django_poolkit import lifespan
from django_poolkit.asgi import Poolkit, get_asgi_application
from django_poolkit.lifespan import ResourceError, course, in_flight, inner
from django_poolkit.lifespan.protocol import CHANGES
from tests.lifespan.support import SECRET, Diary, Wire, looped, span_of, until

pytestmark = pytest.mark.core

COMPLETE = {"type": "lifespan.startup.complete"}
STOPPED = {"type": "lifespan.shutdown.complete"}
DJANGO = Poolkit(ASGIHandler())


@looped
async def test_a_server_is_told_when_all_is_open_and_when_all_is_closed(diary: Diary) -> None:
    diary.declare("a")
    diary.declare("b")
    wire = Wire(get_asgi_application())
    assert await wire.ask("startup") == COMPLETE
    assert diary.said("open") == ["a", "b"]
    assert await wire.ask("shutdown") == STOPPED
    assert diary.said("close") == ["b", "a"]
    await wire.task


@looped
async def test_a_failed_start_says_which_and_no_more(
    diary: Diary, caplog: pytest.LogCaptureFixture
) -> None:
    diary.declare("a")
    diary.declare("b", opening="fail")
    diary.declare("c")
    wire = Wire(DJANGO)
    assert await wire.ask("startup") == {
        "type": "lifespan.startup.failed",
        "message": "resource 'b': could not be opened: ConnectionError",
    }
    await wire.task
    assert diary.said("opening") == ["a", "b"]
    assert diary.said("close") == ["a"]
    assert len(wire.said) == 1
    assert SECRET not in caplog.text


@looped
async def test_a_hung_start_fails_within_the_budget(diary: Diary) -> None:
    diary.declare("a")
    diary.declare("b", opening="hang")
    wire = Wire(DJANGO, **{CHANGES: {"start_timeout": 0.2}})
    async with asyncio.timeout(1.2):
        answer = await wire.ask("startup")
    assert answer["message"].startswith("resource 'b': not open within 0.")
    assert diary.said("close") == ["a"]


@looped
async def test_a_close_that_fails_or_hangs_is_no_failed_shutdown(diary: Diary) -> None:
    diary.declare("a")
    diary.declare("b", closing="hang", stop_timeout=0.05)
    diary.declare("c", closing="fail")
    wire = Wire(DJANGO)
    await wire.ask("startup")
    assert await wire.ask("shutdown") == STOPPED
    assert diary.said("close") == ["a"]


@looped
async def test_a_cancelled_server_task_closes_what_is_open(diary: Diary) -> None:
    diary.declare("a")
    wire = Wire(DJANGO)
    await wire.ask("startup")
    wire.task.cancel()
    await asyncio.wait({wire.task})
    assert wire.task.cancelled()
    assert diary.said("close") == ["a"]


@looped
async def test_a_task_that_is_cancelled_as_it_starts_closes_what_is_open(diary: Diary) -> None:
    diary.declare("a")
    diary.declare("b", opening="hang")
    wire = Wire(DJANGO)
    asking = asyncio.create_task(wire.ask("startup"))
    await until(lambda: "opening b" in diary.events)
    wire.task.cancel()
    await asyncio.wait({wire.task})
    assert wire.task.cancelled()
    assert diary.said("close") == ["a"]
    assert await asking is None


def test_a_loop_that_ends_without_a_shutdown_closes_in_order(diary: Diary) -> None:
    diary.declare("a", closing=0.01)
    diary.declare("b", closing=0.02)

    async def main() -> None:
        wire = Wire(DJANGO)
        await wire.ask("startup")

    asyncio.run(main())
    assert diary.events[4:] == ["closing b", "close b", "closing a", "close a"]


def test_a_loop_that_ends_while_requests_are_drained_closes_in_order(diary: Diary) -> None:
    diary.declare("a", closing=0.01)
    diary.declare("b", closing=0.02)

    async def serve() -> None:
        with in_flight.counted():
            await asyncio.Event().wait()

    async def main() -> None:
        wire = Wire(DJANGO)
        await wire.ask("startup")
        request = asyncio.create_task(serve())
        await until(lambda: in_flight.count() == 1)
        asking = asyncio.create_task(wire.ask("shutdown"))
        await until(lambda: in_flight._wakers)
        assert not request.done()
        assert not asking.done()

    asyncio.run(main())
    assert diary.events[4:] == ["closing b", "close b", "closing a", "close a"]


def test_a_loop_that_was_closed_under_it_does_not_hinder_the_next(
    diary: Diary, monkeypatch: pytest.MonkeyPatch
) -> None:
    diary.declare("a")

    async def begin() -> None:
        monkeypatch.setattr(course, "_current", span_of())

    asyncio.run(begin())

    @looped
    async def again() -> None:
        assert course.current() is None
        wire = Wire(DJANGO)
        assert await wire.ask("startup") == COMPLETE
        await wire.ask("shutdown")

    again()


@looped
async def test_the_process_may_start_again(diary: Diary) -> None:
    diary.declare("a")
    for times in (1, 2):
        wire = Wire(DJANGO)
        assert await wire.ask("startup") == COMPLETE
        assert await wire.ask("shutdown") == STOPPED
        assert diary.said("close") == ["a"] * times


@looped
async def test_a_second_server_in_the_process_is_refused(diary: Diary) -> None:
    diary.declare("a")
    wire = Wire(DJANGO)
    await wire.ask("startup")

    async def another() -> Any:
        return await Wire(DJANGO).ask("startup")

    answer = await asyncio.to_thread(lambda: asyncio.run(another()))
    assert answer["type"] == "lifespan.startup.failed"
    assert "runs on another event loop already" in answer["message"]
    assert diary.events == ["opening a", "open a"]
    await wire.ask("shutdown")


# -- the state


@looped
async def test_the_state_is_an_alias_of_what_is_open(diary: Diary) -> None:
    diary.declare("a")
    wire = Wire(DJANGO)
    await wire.ask("startup")
    assert wire.state == {"a": "A"}
    wire.state.clear()  # as granian does before the end
    assert await wire.ask("shutdown") == STOPPED
    assert diary.said("close") == ["a"]


@looped
async def test_a_server_without_a_state_is_served(diary: Diary) -> None:
    diary.declare("a")
    scope: dict[str, Any] = {"type": "lifespan", CHANGES: {"pools": "lazy"}}
    questions = iter(["lifespan.startup", "lifespan.shutdown"])
    said = []

    async def receive() -> Any:
        return {"type": next(questions)}

    async def send(message: Any) -> None:
        said.append(message)

    await DJANGO(scope, receive, send)
    assert said == [COMPLETE, STOPPED]
    assert diary.said("close") == ["a"]


@looped
async def test_status_tells_how_each_is(diary: Diary) -> None:
    assert lifespan.status() == {}
    diary.declare("a")
    diary.declare("b", opening="fail", required=False)
    wire = Wire(DJANGO)
    await wire.ask("startup")
    assert lifespan.status() == {"a": ("ready", ""), "b": ("failed", "ConnectionError")}
    await wire.ask("shutdown")
    assert lifespan.status() == {"a": ("closed", ""), "b": ("closed", "")}


# -- settings


@looped
async def test_those_of_the_settings_come_first_and_in_their_order(diary: Diary) -> None:
    diary.declare("a")
    diary.declare("b")
    named = ["tests.lifespan.named.plain", "tests.lifespan.named.declared"]
    with override_settings(POOLKIT={"LIFESPAN": {"RESOURCES": named}}):
        wire = Wire(DJANGO)
        assert await wire.ask("startup") == COMPLETE
        assert list(lifespan.status()) == ["plain", "declared", "a", "b"]
        await wire.ask("shutdown")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("tests.lifespan.named.nonsense", "cannot be imported: ImportError"),
        ("tests.lifespan.nowhere.redis", "cannot be imported: ModuleNotFoundError"),
        ("tests.lifespan.named.SECRETS", "returns an async context manager; got a dict"),
        ("tests.lifespan.named.coroutine", "cannot be one: a resource is an async generator"),
    ],
)
def test_a_setting_that_leads_nowhere_fails_the_start(path: str, said: str) -> None:
    @looped
    async def main() -> None:
        with override_settings(POOLKIT={"LIFESPAN": {"RESOURCES": [path]}}):
            answer = await Wire(DJANGO).ask("startup")
        assert answer["type"] == "lifespan.startup.failed"
        assert answer["message"].startswith(f"POOLKIT['LIFESPAN']['RESOURCES'] names {path!r}, ")
        assert said in answer["message"]

    main()


@looped
async def test_settings_that_went_wrong_fail_the_start() -> None:
    with override_settings(POOLKIT={"LIFESPAN": {"POOLS": "eager"}}):
        answer = await Wire(DJANGO).ask("startup")
    assert answer["type"] == "lifespan.startup.failed"
    assert "ImproperlyConfigured" in answer["message"]


# -- the application within


def starlette(diary: Diary, way: str = "") -> Starlette:
    """An application with a lifespan and a state of its own."""

    @asynccontextmanager
    async def own(app: Starlette) -> AsyncIterator[dict[str, Any]]:
        diary.events.append("opening inner")
        if way == "fail":
            raise ConnectionError(SECRET)
        if way == "hang":
            await asyncio.sleep(3600)
        diary.events.append("open inner")
        yield {"inner": "INNER"}
        if way == "fail at the end":
            raise ConnectionError(SECRET)
        diary.events.append("close inner")

    def show(request: Request) -> JSONResponse:
        return JSONResponse(sorted(request.scope["state"]))

    return Starlette(lifespan=own, routes=[Route("/", show)])


@looped
async def test_the_application_starts_after_ours_and_stops_before(diary: Diary) -> None:
    diary.declare("a")
    wire = Wire(Poolkit(starlette(diary)))
    assert await wire.ask("startup") == COMPLETE
    assert wire.state == {"a": "A", "inner": "INNER"}
    assert await wire.ask("shutdown") == STOPPED
    assert diary.events == [
        "opening a", "open a", "opening inner", "open inner", "close inner", "closing a", "close a",
    ]  # fmt: skip


@looped
async def test_a_resource_may_be_called_app(diary: Diary) -> None:
    app = diary.declare("app")
    wire = Wire(Poolkit(starlette(diary)))
    assert await wire.ask("startup") == COMPLETE
    assert app.get() == "APP"
    assert await wire.ask("shutdown") == STOPPED
    assert diary.events[-3:] == ["close inner", "closing app", "close app"]


@looped
async def test_an_application_that_fails_to_start_fails_the_start(
    diary: Diary, caplog: pytest.LogCaptureFixture
) -> None:
    diary.declare("a")
    wire = Wire(Poolkit(starlette(diary, "fail")))
    answer = await wire.ask("startup")
    assert answer["type"] == "lifespan.startup.failed"
    # Starlette's own message is a traceback.
    assert answer["message"] == (
        "resource 'asgi:app': could not be opened: the application's own lifespan.startup failed"
    )
    assert diary.said("close") == ["a"]
    assert "in own" in caplog.text
    assert SECRET not in caplog.text


@looped
async def test_an_application_that_hangs_has_the_budget_of_a_resource(diary: Diary) -> None:
    wire = Wire(Poolkit(starlette(diary, "hang")), **{CHANGES: {"resource_start_timeout": 0.1}})
    answer = await wire.ask("startup")
    assert answer["message"] == "resource 'asgi:app': not open within 0.10 s"


@looped
async def test_an_application_that_fails_to_stop_is_told_of(
    diary: Diary, caplog: pytest.LogCaptureFixture
) -> None:
    diary.declare("a")
    wire = Wire(Poolkit(starlette(diary, "fail at the end")))
    await wire.ask("startup")
    assert await wire.ask("shutdown") == STOPPED
    assert diary.said("close") == ["a"]
    assert (
        "resource=asgi:app event=close_failed error=the application's own lifespan.shut"
        in caplog.text
    )
    assert SECRET not in caplog.text


async def refuses(scope: Any, receive: Any, send: Any) -> None:
    raise ValueError("Django can only handle ASGI/HTTP connections, not lifespan.")


async def ignores(scope: Any, receive: Any, send: Any) -> None:
    return


async def hangs_up(scope: Any, receive: Any, send: Any) -> None:
    await receive()


@pytest.mark.parametrize("app", [refuses, ignores, hangs_up, ASGIHandler()])
def test_an_application_without_a_lifespan_is_fine(app: Any, diary: Diary) -> None:
    @looped
    async def main() -> None:
        diary.declare("a")
        wire = Wire(Poolkit(app))
        assert await wire.ask("startup") == COMPLETE
        assert await wire.ask("shutdown") == STOPPED
        assert diary.said("close") == ["a"]

    main()


async def gives_up(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "lifespan.startup.failed", "message": SECRET})


async def gives_up_and_stays(scope: Any, receive: Any, send: Any) -> None:
    await gives_up(scope, receive, send)
    await asyncio.Event().wait()


@pytest.mark.parametrize("app", [gives_up, gives_up_and_stays])
def test_an_application_that_says_it_failed_fails_the_start(
    app: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inner, "_FAREWELL", 0.05)

    @looped
    async def main() -> None:
        answer = await Wire(Poolkit(app)).ask("startup")
        assert answer["type"] == "lifespan.startup.failed"
        assert SECRET not in answer["message"]

    main()


def test_one_that_raises_as_it_is_sent_away_is_no_news(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inner, "_FAREWELL", 0.01)

    async def slams_the_door(scope: Any, receive: Any, send: Any) -> None:
        try:
            await gives_up_and_stays(scope, receive, send)
        except asyncio.CancelledError:
            raise ConnectionError(SECRET) from None

    @looped
    async def main() -> None:
        await Wire(Poolkit(slams_the_door)).ask("startup")

    main()
    gc.collect()
    assert "never retrieved" not in caplog.text


@looped
async def test_what_it_failed_of_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    async def explains_later(scope: Any, receive: Any, send: Any) -> None:
        await gives_up(scope, receive, send)
        await asyncio.sleep(0.01)
        raise ConnectionError(SECRET)

    await Wire(Poolkit(explains_later)).ask("startup")
    assert "from ConnectionError" in caplog.text
    assert "in explains_later" in caplog.text


@looped
async def test_an_application_whose_lifespan_ends_too_early_is_told_of(
    diary: Diary, caplog: pytest.LogCaptureFixture
) -> None:
    async def dies(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(COMPLETE)
        await asyncio.sleep(0.01)
        diary.events.append("dead")
        raise ConnectionError(SECRET)

    wire = Wire(Poolkit(dies))
    assert await wire.ask("startup") == COMPLETE
    await until(lambda: diary.events == ["dead"])
    await until(lambda: "resource=asgi:app event=ended error=ConnectionError" in caplog.text)
    assert "in dies" in caplog.text
    assert await wire.ask("shutdown") == STOPPED
    assert "resource=asgi:app event=close_failed" in caplog.text
    assert caplog.text.count("event=ended") == 1
    assert SECRET not in caplog.text
    assert "never retrieved" not in caplog.text


async def breaks(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    raise ConnectionError(SECRET)


@looped
async def test_an_application_that_breaks_over_the_message_fails_the_start() -> None:
    answer = await Wire(Poolkit(breaks)).ask("startup")
    assert answer["type"] == "lifespan.startup.failed"


@looped
async def test_wrappers_in_one_another_open_once(diary: Diary) -> None:
    diary.declare("a")
    wire = Wire(Poolkit(Poolkit(starlette(diary))))
    assert await wire.ask("startup") == COMPLETE
    assert await wire.ask("shutdown") == STOPPED
    assert diary.said("open") == ["a", "inner"]
    assert diary.said("close") == ["inner", "a"]


# -- as the lifespan of Starlette and FastAPI


@looped
async def test_it_is_the_lifespan_of_starlette(diary: Diary) -> None:
    diary.declare("a")
    with override_settings(POOLKIT={"LIFESPAN": {"POOLS": "lazy"}}):
        wire = Wire(Starlette(lifespan=lifespan.lifespan))
        assert await wire.ask("startup") == COMPLETE
        assert wire.state == {"a": "A"}
        assert await wire.ask("shutdown") == STOPPED
    assert diary.said("close") == ["a"]


@looped
async def test_starlette_fails_with_it_without_telling_a_secret(diary: Diary) -> None:
    diary.declare("a")
    diary.declare("b", opening="fail")
    with override_settings(POOLKIT={"LIFESPAN": {"POOLS": "lazy"}}):
        wire = Wire(Starlette(lifespan=lifespan.lifespan))
        answer = await wire.ask("startup")
        with pytest.raises(ResourceError):
            await wire.task
    assert answer["type"] == "lifespan.startup.failed"
    assert "resource 'b': could not be opened: ConnectionError" in answer["message"]
    assert SECRET not in answer["message"]
    assert diary.said("close") == ["a"]


@looped
async def test_within_a_wrapper_it_joins_what_is_open(diary: Diary) -> None:
    diary.declare("a")
    wire = Wire(Poolkit(Starlette(lifespan=lifespan.lifespan)))
    assert await wire.ask("startup") == COMPLETE
    assert await wire.ask("shutdown") == STOPPED
    assert diary.events == ["opening a", "open a", "closing a", "close a"]


@looped
async def test_a_block_of_it_closes_when_it_fails(diary: Diary) -> None:
    diary.declare("a")
    with override_settings(POOLKIT={"LIFESPAN": {"POOLS": "lazy"}}):
        with pytest.raises(RuntimeError, match="boom"):
            async with lifespan.lifespan() as found:
                assert found == {"a": "A"}
                raise RuntimeError("boom")
        assert diary.said("close") == ["a"]
        diary.declare("b", opening="fail")
        with pytest.raises(ResourceError, match="'b'"):
            async with lifespan.lifespan():
                raise AssertionError


def test_one_line_tells_of_the_start_and_one_of_the_end(
    diary: Diary, caplog: pytest.LogCaptureFixture
) -> None:
    @looped
    async def main() -> None:
        wire = Wire(DJANGO)
        await wire.ask("startup")
        await wire.ask("shutdown")

    diary.declare("a")
    with caplog.at_level(logging.INFO, "django_poolkit.lifespan"):
        main()
    lines = [record.getMessage().partition(" seconds")[0] for record in caplog.records]
    assert lines == [
        "resource=a event=opened",
        "event=started resources=1",
        "resource=a event=closed",
        "event=stopped",
    ]

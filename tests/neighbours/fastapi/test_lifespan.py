"""What FastAPI opens with the pools of Django: once, whichever of them is asked to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

import pytest
from django.core.handlers.asgi import ASGIHandler
from django.test import override_settings
from fastapi import Depends, FastAPI
from starlette.applications import Starlette

from django_poolkit import lifespan
from django_poolkit.asgi import Poolkit
from django_poolkit.lifespan import ResourceError
from tests.lifespan.support import SECRET, Diary, Wire, looped
from tests.request_end.drive import AsgiServer

COMPLETE = {"type": "lifespan.startup.complete"}
STOPPED = {"type": "lifespan.shutdown.complete"}

Make = Callable[..., Any]


def fastapi(diary: Diary, way: str = "") -> FastAPI:
    """Return an application that opens something itself."""

    @asynccontextmanager
    async def own(app: FastAPI) -> AsyncIterator[dict[str, str]]:
        if way == "fail":
            raise ConnectionError(SECRET)
        diary.events.append("open own")
        yield {"own": "OWN"}
        diary.events.append("close own")

    return FastAPI(lifespan=own)


def within(diary: Diary, way: str = "") -> Any:
    app = fastapi(diary, way)
    app.add_middleware(Poolkit)
    return app


def around(diary: Diary, way: str = "") -> Any:
    return Poolkit(fastapi(diary, way))


def both(diary: Diary, way: str = "") -> Any:
    return Poolkit(within(diary, way))


def by_hand(diary: Diary, way: str = "") -> Any:
    """Compose the two lifespans as Starlette's users do."""
    inner = fastapi(diary, way).router.lifespan_context

    @asynccontextmanager
    async def composed(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        async with lifespan.lifespan() as resources, inner(app) as own:
            yield {**resources, **(own or {})}

    app = FastAPI(lifespan=composed)
    app.add_middleware(Poolkit)
    return app


def mounted(diary: Diary, way: str = "") -> Any:
    app = within(diary, way)
    app.mount("/django", Poolkit(ASGIHandler()))
    return app


WAYS = [within, around, both, by_hand, mounted]


@pytest.mark.parametrize("make", WAYS)
@looped
async def test_everything_is_opened_once_and_in_order(diary: Diary, make: Make) -> None:
    diary.declare("a")
    wire = Wire(make(diary))
    assert await wire.ask("startup") == COMPLETE
    assert wire.state == {"a": "A", "own": "OWN"}
    assert lifespan.status()["a"].state == "ready"
    assert await wire.ask("shutdown") == STOPPED
    assert [each for each in diary.events if each.startswith(("open ", "close "))] == [
        "open a",
        "open own",
        "close own",
        "close a",
    ]


@pytest.mark.parametrize("make", WAYS)
@looped
async def test_a_resource_that_fails_keeps_the_server_from_starting(
    diary: Diary, make: Make
) -> None:
    diary.declare("a")
    diary.declare("b", opening="fail")
    wire = Wire(make(diary))
    answer = await wire.ask("startup")
    assert answer["type"] == "lifespan.startup.failed"
    assert answer["message"] == "resource 'b': could not be opened: ConnectionError"
    assert diary.said("close") == ["a"]
    assert "own" not in diary.said("open")


@pytest.mark.parametrize("make", WAYS)
@looped
async def test_so_does_an_own_lifespan_that_fails(diary: Diary, make: Make) -> None:
    diary.declare("a")
    wire = Wire(make(diary, "fail"))
    answer = await wire.ask("startup")
    assert answer["type"] == "lifespan.startup.failed"
    assert "the application's own lifespan.startup failed" in answer["message"]
    assert SECRET not in answer["message"]
    assert diary.said("close") == ["a"]


@looped
async def test_without_any_wrapper_the_lifespan_opens_alone(diary: Diary) -> None:
    diary.declare("a")
    with override_settings(POOLKIT={"LIFESPAN": {"POOLS": "lazy"}}):
        wire = Wire(FastAPI(lifespan=lifespan.lifespan))
        assert await wire.ask("startup") == COMPLETE
        assert wire.state == {"a": "A"}
        assert await wire.ask("shutdown") == STOPPED
    assert diary.said("close") == ["a"]


def test_a_second_server_in_the_process_is_told(diary: Diary) -> None:
    async def serve(make: Make) -> Any:
        wire = Wire(make(diary))
        answer = await wire.ask("startup")
        if answer != COMPLETE:
            await wire.task
            return answer
        other = await asyncio.to_thread(asyncio.run, serve(within))
        await wire.ask("shutdown")
        return other

    answer = asyncio.run(serve(within))
    assert answer == {
        "type": "lifespan.startup.failed",
        "message": "the lifespan of this process runs on another event loop already",
    }


def with_resource(app: Any, search: lifespan.Declared[str]) -> Any:
    """Return the application with two endpoints that use a resource."""
    found = Annotated[str, Depends(search.aget)]

    async def by_dependency(search: Any) -> str:
        return str(search)

    by_dependency.__annotations__["search"] = found
    app.get("/dependency")(by_dependency)

    @app.get("/at-once")
    async def at_once() -> str:
        return search.get()

    return app


@looped
async def test_a_resource_is_a_dependency(diary: Diary) -> None:
    search = diary.declare("search")
    app = with_resource(within(diary), search)
    wire = Wire(app)
    await wire.ask("startup")
    for path in ("/dependency", "/at-once"):
        answered = await AsgiServer(app).aget(path)
        assert (answered.status, json.loads(answered.body)) == (200, "SEARCH")
    await wire.ask("shutdown")
    assert diary.said("open") == ["search", "own"]


@pytest.mark.parametrize("make", [within, lambda diary: fastapi(diary)])
def test_where_nobody_opened_it_says_so(diary: Diary, make: Make) -> None:
    search = diary.declare("search")
    app = with_resource(make(diary), search)

    async def main() -> None:
        answered = await AsgiServer(app).aget("/at-once")
        assert answered.status == 500
        assert isinstance(answered.error, ResourceError)
        assert "open it by `await ….aget()`" in str(answered.error)
        answered = await AsgiServer(app).aget("/dependency")
        assert (answered.status, json.loads(answered.body)) == (200, "SEARCH")

    asyncio.run(main())
    assert diary.said("close") == ["search"], "with the loop that it was opened on"


@looped
async def test_the_lifespan_of_what_is_mounted_is_not_run(diary: Diary) -> None:
    """Starlette runs that of the outermost alone; what is the process's is open all the same."""
    diary.declare("a")
    app = Starlette()
    app.mount("/api", within(diary))
    wire = Wire(Poolkit(app))
    assert await wire.ask("startup") == COMPLETE
    assert diary.said("open") == ["a"]
    assert await wire.ask("shutdown") == STOPPED

"""Requests to FastAPI and Starlette: when their leases end, what they are called, who gets 503."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Annotated, Any

import pytest
from django.core.handlers.asgi import ASGIHandler
from django.test import override_settings
from fastapi import APIRouter, Depends, FastAPI, HTTPException
from fastapi.responses import StreamingResponse
from fastapi.sse import EventSourceResponse
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from django_poolkit import PoolTimeout, asyncpg_pools, client_sessions, connection_pools
from django_poolkit.aio import aatomic
from django_poolkit.asgi import Poolkit
from django_poolkit.backends import request as requests
from django_poolkit.backends.request import RequestScope
from django_poolkit.backends.routed import route_of
from django_poolkit.contrib.fastapi import asyncpg_leased, client_session, leased
from django_poolkit.pools.postgres import ConnectionPool
from django_poolkit.streams import ends_with_request
from django_poolkit.testing.waiting import wait_until
from tests.app.models import Item
from tests.http.upstream import Upstream
from tests.neighbours.fastapi.site import routes
from tests.neighbours.fastapi.site.routes import Asyncpg, Psycopg
from tests.request_end.drive import AsgiServer, Exchange
from tests.request_end.drive import scope as plain_scope
from tests.servers.client import PATIENCE


def scope(path: str, **facts: Any) -> Any:
    """Return an ASGI scope, typed as loosely as each framework has it."""
    return plain_scope(path, **facts)


def make_app(*ways: Callable[[Any], object]) -> FastAPI:
    """Return an application with the endpoints of the site, and those of a test."""
    app = FastAPI()
    app.include_router(routes.router)
    for way in ways:
        way(app)
    app.add_middleware(Poolkit)
    return app


@pytest.fixture(params=["within", "around"])
def wrapped(request: pytest.FixtureRequest) -> Callable[[FastAPI], Any]:
    """Put the wrapper into an application as its first middleware, or around it."""

    def wrap(app: FastAPI) -> Any:
        if request.param == "around":
            return Poolkit(app)
        app.add_middleware(Poolkit)
        return app

    return wrap


# -- leases end


async def until_home(pool: ConnectionPool) -> None:
    """Wait until nothing is leased: a thread of anyio's may be on its way to where it rests."""
    await asyncio.to_thread(wait_until, lambda: pool.stats().used == 0, 5.0)


@pytest.mark.parametrize("kind", routes.KINDS)
def test_nothing_is_leased_when_a_request_has_been_served(pool: ConnectionPool, kind: str) -> None:
    app = make_app()

    async def main() -> list[int]:
        for number in range(3):
            answered = await AsgiServer(app).aget(f"/write/{kind}/{number}")
            assert answered.status == 200, answered
            await until_home(pool)
        return [each.stats().used for each in asyncpg_pools.values()]

    assert asyncio.run(main()) == [0]
    assert Item.objects.filter(name__startswith=kind).count() == 3


def test_a_dependency_and_its_endpoint_are_two_threads(pool: ConnectionPool) -> None:
    """FastAPI may run each in another; none of them keeps what it took."""
    app = make_app()

    async def main() -> None:
        for _ in range(3):
            answered = await AsgiServer(app).aget("/dependent")
            assert answered.status == 200, answered
            await until_home(pool)

    routes.seen.clear()
    asyncio.run(main())
    assert all("AnyIO" in name for name in routes.seen[::3])


def test_a_request_that_is_cancelled(pool: ConnectionPool) -> None:
    app = make_app()

    async def main() -> None:
        for kind in ("methods", "psycopg"):
            exchange: Any = Exchange()
            work = app(scope(f"/hold/{kind}/x?seconds=60"), exchange.receive, exchange.send)
            task = asyncio.get_running_loop().create_task(work)
            while not pool.stats().used:  # noqa: ASYNC110 - whoever takes it
                await asyncio.sleep(0.005)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert pool.stats().used == 0

    asyncio.run(main())


def test_what_runs_after_the_answer_belongs_to_the_request(pool: ConnectionPool) -> None:
    app = make_app()

    async def main() -> None:
        exchange: Any = Exchange()
        await app(scope("/background"), exchange.receive, exchange.send)
        await until_home(pool)

    asyncio.run(main())
    assert Item.objects.get().name == "in the background"


def test_a_websocket(pool: ConnectionPool) -> None:
    app = make_app()
    messages = iter([{"type": "websocket.connect"}, {"type": "websocket.receive", "text": "said"}])
    sent: list[Any] = []

    async def receive() -> Any:
        return next(messages, {"type": "websocket.disconnect", "code": 1000})

    async def send(message: Any) -> None:
        sent.append(message)

    async def main() -> None:
        await app(scope("/ws/7", kind="websocket"), receive, send)
        assert pool.stats().used == 0

    asyncio.run(main())
    assert json.loads(sent[1]["text"]) == {"item": Item.objects.get(name="said").pk}


# -- dependencies


def test_a_leased_connection_is_back_before_the_answer_is_sent(pool: ConnectionPool) -> None:
    app = make_app()
    used: list[int] = []

    async def send(message: Any) -> None:
        used.append(pool.stats().used + sum(p.stats().used for p in asyncpg_pools.values()))

    async def main() -> None:
        for kind in ("psycopg", "asyncpg", "sqlalchemy"):
            await app(scope(f"/write/{kind}/1"), Exchange().receive, send)

    asyncio.run(main())
    assert used
    assert set(used) == {0}


async def repository(connection: Psycopg) -> Any:
    return connection


def test_who_asks_twice_has_one_lease(pool: ConnectionPool) -> None:
    def add(app: FastAPI) -> None:
        @app.get("/twice")
        async def twice(
            one: Annotated[Any, leased("default")],
            two: Annotated[Any, Depends(repository)],
            three: Annotated[Any, asyncpg_leased()],
            four: Asyncpg,
        ) -> list[Any]:
            return [one is two, three is four, pool.stats().used]

    answered = AsgiServer(make_app(add)).get("/twice")
    assert json.loads(answered.body) == [True, True, 1]


def test_the_client_session_is_the_one_of_all(pool: ConnectionPool) -> None:
    def add(app: FastAPI) -> None:
        @app.get("/weather")
        async def weather(session: Annotated[Any, client_session("weather")]) -> Any:
            async with session.get("echo", params={"city": "Oslo"}) as response:
                return [session is client_sessions["weather"], await response.json()]

    with Upstream() as upstream:
        base = f"http://127.0.0.1:{upstream.port}/"
        with override_settings(POOLKIT={"HTTP": {"weather": {"base_url": base}}}):
            answered = AsgiServer(make_app(add)).get("/weather")
    same, echo = json.loads(answered.body)
    assert (same, echo["method"]) == (True, "GET")


def test_an_alias_that_does_not_exist_is_named(pool: ConnectionPool) -> None:
    def add(app: FastAPI) -> None:
        @app.get("/nowhere")
        async def nowhere(connection: Annotated[Any, leased("nowhere")]) -> None:
            raise AssertionError

    answered = AsgiServer(make_app(add)).get("/nowhere")
    assert answered.status == 500
    assert "DATABASES has no alias 'nowhere'" in str(answered.error)


# -- 503


@contextmanager
def exhausted(pool: ConnectionPool) -> Iterator[None]:
    leases = [pool.acquire() for _ in range(2)]
    pool.timeout = 0.05
    try:
        yield
    finally:
        for lease in leases:
            lease.release()


@pytest.mark.parametrize(
    "kind", ["plain", "atomic", "threaded", "bridged", "methods", "aatomic", "psycopg"]
)
def test_an_exhausted_pool_is_answered_503(pool: ConnectionPool, kind: str) -> None:
    with exhausted(pool):
        answered = AsgiServer(make_app()).get(f"/write/{kind}/1", accept="application/json")
    assert (answered.status, answered.error) == (503, None)
    assert answered.headers["content-type"] == "application/problem+json"
    assert 1 <= int(answered.headers["retry-after"]) <= 3


@pytest.mark.parametrize("kind", ["asyncpg", "sqlalchemy"])
@override_settings(POOLKIT={"ASYNCPG": {"default": {"max_size": 1, "TIMEOUT": 0.05}}})
def test_so_is_one_of_asyncpg(pool: ConnectionPool, kind: str) -> None:
    async def main() -> None:
        async with asyncpg_pools["default"].lease(PATIENCE):
            answered = await AsgiServer(make_app()).aget(f"/write/{kind}/1")
        assert (answered.status, answered.error) == (503, None)

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["plain", "bridged", "methods", "psycopg"])
def test_so_it_is_with_the_wrapper_around(pool: ConnectionPool, kind: str) -> None:
    app = FastAPI()
    app.include_router(routes.router)
    with exhausted(pool):
        answered = AsgiServer(Poolkit(app)).get(f"/write/{kind}/1")
    assert answered.status == 503
    # Starlette answers 500 by itself, and has the server know why all the same.
    assert isinstance(answered.error, PoolTimeout)


def test_who_may_have_written_past_the_orm_is_not_told_to_come_again(pool: ConnectionPool) -> None:
    def add(app: FastAPI) -> None:
        @app.post("/both")
        async def both(connection: Psycopg) -> None:
            await connection.execute("SELECT 1")
            await Item.objects.acount()

    hogged = pool.acquire()
    pool.timeout = 0.05
    answered = AsgiServer(make_app(add)).get("/both", method="POST")
    hogged.release()
    assert (answered.status, "retry-after" in answered.headers) == (503, False)


def test_who_answers_by_himself_keeps_his_answer(
    pool: ConnectionPool, wrapped: Callable[[FastAPI], Any]
) -> None:
    app = FastAPI()

    @app.get("/conflict")
    def conflict() -> None:
        try:
            Item.objects.count()
        except PoolTimeout as error:
            raise HTTPException(409) from error

    with exhausted(pool):
        assert AsgiServer(wrapped(app)).get("/conflict").status == 409


# -- names


def wheres(*given: Callable[[list[str]], Any]) -> list[str]:
    """Return what the requests of a test are called, as they run and when they are over."""
    said: list[str] = []
    scopes: list[RequestScope] = []

    def note() -> None:
        current = requests.current()
        assert current is not None
        scopes.append(current)
        said.append(current.where())

    for each in given:
        each(note)  # type: ignore[arg-type]
    assert [each.where() for each in scopes] == said
    assert [each.asgi for each in scopes] == [None] * len(said)
    return said


async def ask(app: Any, *paths: str) -> list[int]:
    return [(await AsgiServer(app).aget(path)).status for path in paths]


def test_a_request_is_called_by_its_route() -> None:
    def given(note: Any) -> None:
        api = APIRouter(prefix="/shop")

        @api.get("/orders/{number}")
        def order(number: int) -> str:
            note()
            return requests.current().view() or ""  # type: ignore[union-attr]

        @api.get("/orders")
        async def orders() -> None:
            note()

        app, inner = FastAPI(), FastAPI()
        app.include_router(api)
        inner.include_router(api)
        app.mount("/{tenant}/v2", inner)
        app.add_middleware(Poolkit)
        answered = AsgiServer(app).get("/shop/orders/7")
        assert json.loads(answered.body) == "/shop/orders/{number}"
        assert asyncio.run(ask(app, "/shop/orders", "/s3same/v2/shop/orders/7")) == [200, 200]

    assert wheres(given) == [
        "GET /shop/orders/{number}",
        "GET /shop/orders",
        "GET /shop/orders/{number}",
    ]


def test_one_without_a_route_has_no_name() -> None:
    def given(note: Any) -> None:
        app = Starlette(routes=[Route("/there", PlainTextResponse("there"))])

        class Looks:
            def __init__(self, app: Any) -> None:
                self.app = app

            async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
                await self.app(scope, receive, send)
                note()

        app.add_middleware(Looks)
        app.add_middleware(Poolkit)
        # This one is the path of a view of Django's, by chance.
        with override_settings(ROOT_URLCONF="tests.request_end.where_urls"):
            assert asyncio.run(ask(app, "/held/", "/s3same")) == [404, 404]

    assert wheres(given) == ["GET (no route)", "GET (no route)"]


def test_endpoints_of_starlette() -> None:
    def given(note: Any) -> None:
        class Orders(HTTPEndpoint):
            async def get(self, request: Any) -> PlainTextResponse:
                note()
                return PlainTextResponse("")

        def order(request: Any) -> PlainTextResponse:
            note()
            return PlainTextResponse("")

        routes = [Route("/orders", Orders), Route("/orders/{number}", order)]
        app = Poolkit(Starlette(routes=[Mount("/api", routes=routes)]))
        assert asyncio.run(ask(app, "/api/orders", "/api/orders/7")) == [200, 200]

    assert wheres(given) == ["GET /orders", "GET /orders/{number}"]


def test_an_endpoint_without_a_known_route_is_called_by_its_own_name() -> None:
    # As with Starlette before 1.0, which says nothing of the route.
    asgi = {"app": object(), "endpoint": test_endpoints_of_starlette}
    assert route_of(asgi) == f"{__name__}.test_endpoints_of_starlette"
    assert route_of(asgi | {"route": SimpleNamespace(path="/a/{b}")}) == "/a/{b}"
    assert route_of({"app": object()}) == ""
    assert route_of({}) is None


@pytest.mark.parametrize("within", [False, True])
def test_a_view_of_a_django_that_is_mounted_has_its_own(within: bool) -> None:
    django: Any = ASGIHandler()
    app = FastAPI()
    app.mount("/django", Poolkit(django) if within else django)
    app.add_middleware(Poolkit)
    seen: list[RequestScope] = []

    async def looking(scope: Any, receive: Any, send: Any) -> None:
        try:
            await app(scope, receive, send)
        finally:
            seen.append(requests.current())  # type: ignore[arg-type]

    with override_settings(ROOT_URLCONF="tests.request_end.where_urls"):
        assert AsgiServer(Poolkit(looking)).get("/django/api/orders/7/").status == 200
        assert seen[0].where() == "GET api:order"
        assert seen[0].view() == "api:order"


@pytest.mark.parametrize("way", ["threads", "tasks"])
def test_bare_leases_have_the_name_of_the_request(pool: ConnectionPool, way: str) -> None:
    bare = connection_pools["default"]
    found: list[Any] = []

    def add(app: FastAPI) -> None:
        @app.get("/threads")
        def threads() -> None:
            with bare.lease():
                found.extend(bare.leases())

        @app.get("/tasks")
        async def tasks() -> None:
            async with bare.alease():
                found.extend(bare.leases())
            lease = await bare.alease()
            found.extend(bare.leases())
            await lease.release()

    assert AsgiServer(make_app(add)).get(f"/{way}").status == 200
    assert {lease.where for lease in found} == {f"GET /{way}"}
    with bare.lease():
        assert [lease.where for lease in bare.leases()] == [None]


# -- streams that a client leaves


class Unread(Exchange):
    """A client that reads some of the body, and goes."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces = 0

    async def send(self, message: Any) -> None:
        await super().send(message)
        self.pieces += message["type"] == "http.response.body"
        if self.pieces == 3:
            self.disconnected.set()


def stream_by(kind: str, stream: Callable[[], AsyncGenerator[Any]]) -> Callable[[Any], Any]:
    """Return what adds an endpoint whose answer is that stream, in one of FastAPI's ways."""

    def add(app: FastAPI) -> None:
        if kind == "response":

            @app.get("/unread")
            async def endpoint() -> StreamingResponse:
                return StreamingResponse(stream())
        else:
            shape: Any = {"raw": StreamingResponse, "events": EventSourceResponse}
            named = {} if kind == "lines" else {"response_class": shape[kind]}
            app.get("/unread", **named)(stream)

    return add


@pytest.mark.parametrize("kind", ["response", "lines", "raw", "events"])
@pytest.mark.parametrize("holds", ["aatomic", "psycopg", "asyncpg"])
def test_a_stream_that_ends_with_its_request(pool: ConnectionPool, kind: str, holds: str) -> None:
    async def main() -> None:
        begin: dict[str, Callable[[], Any]] = {
            "aatomic": aatomic,
            "psycopg": lambda: connection_pools["default"].alease(),
            "asyncpg": lambda: asyncpg_pools["default"].lease(),
        }
        ended: list[type[BaseException] | None] = []

        @ends_with_request
        async def stream() -> AsyncGenerator[Any]:
            try:
                async with begin[holds]():
                    if holds == "aatomic":
                        await Item.objects.acreate(name="unread")
                    for number in range(10_000):
                        yield str(number)
                        if kind == "response":
                            await asyncio.sleep(0)
            except BaseException as error:
                ended.append(type(error))
                raise

        app = make_app(stream_by(kind, stream))
        exchange: Any = Unread()
        await app(scope("/unread"), exchange.receive, exchange.send)
        assert len(ended) == 1, exchange.answered
        [error] = ended
        assert error in (GeneratorExit, asyncio.CancelledError)
        assert pool.stats().used == 0
        assert not any(each.stats().used for each in asyncpg_pools.values())

    # The errors by which it is cancelled refer to themselves, and so to it.
    gc.disable()
    try:
        asyncio.run(main())
    finally:
        gc.enable()
    assert not Item.objects.exists()


def test_streams_of_one_request_end_in_reverse_whatever_they_raise() -> None:
    ended: list[str] = []

    @ends_with_request
    async def stream(name: str) -> AsyncGenerator[str]:
        try:
            yield name
        finally:
            ended.append(name)
            raise RuntimeError(name)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        streams.extend([stream("outer"), stream("inner"), stream("unused")])
        for each in streams[:2]:
            await anext(each)

    async def main() -> list[str]:
        told: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, facts: told.append(facts))
        await AsgiServer(Poolkit(app)).aget("/")
        # Nobody ends one that was made outside of a request.
        alone = stream("alone")
        assert await anext(alone) == "alone"
        assert "alone" not in ended
        with pytest.raises(RuntimeError, match="alone"):
            await alone.aclose()
        return [str(facts["exception"]) for facts in told]

    streams: list[AsyncGenerator[str, None]] = []
    assert asyncio.run(main()) == ["inner", "outer"]
    assert ended == ["inner", "outer", "alone"]


def test_what_cannot_be_ended_is_refused() -> None:
    def lines() -> Iterator[str]:
        yield "line"

    with pytest.raises(TypeError, match=r"asynchronous generator function.*lines"):
        ends_with_request(lines)  # type: ignore[arg-type]

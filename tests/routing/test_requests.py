"""Requests: what a visitor sees of its own writes, through middleware and both wrappers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from asgiref.testing import ApplicationCommunicator
from django.contrib.auth import authenticate, login
from django.contrib.auth.models import User
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.db import connections
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, StreamingHttpResponse
from django.test import AsyncClient, AsyncRequestFactory, Client, RequestFactory
from django.test.utils import override_settings
from django.urls import path

from django_poolkit.asgi import Poolkit
from django_poolkit.middleware import PoolkitMiddleware
from django_poolkit.routing import scope, use_primary
from django_poolkit.wsgi import PoolkitWSGI
from tests.app.models import Item
from tests.routing.conftest import alias_of, looped

pytestmark = pytest.mark.core

OURS = "django_poolkit.middleware.PoolkitMiddleware"


def aliases(request: HttpRequest) -> HttpResponse:
    before = alias_of()
    if "write" in request.GET:
        Item.objects.create(name="new")
    return HttpResponse(f"{before} {alias_of()}")


async def async_aliases(request: HttpRequest) -> HttpResponse:
    before = alias_of()
    if "write" in request.GET:
        await asyncio.gather(Item.objects.acreate(name="new"), sync_to_async(alias_of)())
    return HttpResponse(f"{before} {alias_of()} {await sync_to_async(alias_of)()}")


def pieces(write: bool) -> Iterator[str]:
    if write:
        Item.objects.create(name="new")
    yield alias_of()
    yield " "
    yield alias_of()


def streamed(request: HttpRequest) -> StreamingHttpResponse:
    if "before" in request.GET:
        Item.objects.create(name="new")
    return StreamingHttpResponse(pieces("write" in request.GET))


async def apieces() -> AsyncIterator[str]:
    yield alias_of()
    await Item.objects.acreate(name="new")
    yield " "
    yield alias_of()


async def async_streamed(request: HttpRequest) -> StreamingHttpResponse:
    if "before" in request.GET:
        await Item.objects.acreate(name="new")
    return StreamingHttpResponse(apieces())


def enter(request: HttpRequest) -> HttpResponse:
    user = authenticate(request, username="ada", password="secret")
    assert user is not None
    login(request, user)
    return HttpResponseRedirect("/who/")


def who(request: HttpRequest) -> HttpResponse:
    return HttpResponse(f"{request.user.get_username()} {alias_of()}")


urlpatterns = [
    path("aliases/", aliases),
    path("async/", async_aliases),
    path("streamed/", streamed),
    path("async-streamed/", async_streamed),
    path("enter/", enter),
    path("who/", who),
]


@pytest.fixture
def site(paused: Any, settings: Any) -> Any:
    """These views, with our middleware."""
    settings.ROOT_URLCONF = __name__
    settings.MIDDLEWARE = [OURS]
    return paused


@pytest.fixture
def session_site(site: Any, settings: Any) -> Iterator[Any]:
    """These views with sessions and users, and one of these."""
    settings.MIDDLEWARE = [
        OURS,
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
    ]
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    with override_settings(INSTALLED_APPS=[*settings.INSTALLED_APPS, "django.contrib.sessions"]):
        from django.contrib.sessions.models import Session

        with connections["default"].schema_editor() as editor:
            editor.create_model(Session)
        for node in site.replicas:
            node.resume_replay()
            site.primary.wait_caught_up(node)
            node.pause_replay()
        User.objects.create_user("ada", password="secret")
        yield site
        with connections["default"].schema_editor() as editor:
            editor.delete_model(Session)


def test_a_request_reads_the_primary_once_it_has_written(site):
    assert Client().get("/aliases/").content == b"replica replica"
    assert Client().get("/aliases/?write").content == b"replica default"
    assert Client().get("/aliases/").content == b"replica replica"
    assert Client().post("/aliases/").content == b"default default"


@looped
async def test_an_async_view_does_as_well(site):
    found = [await AsyncClient().get(f"/async/{query}") for query in ("", "?write", "")]
    assert [response.content for response in found] == [
        b"replica replica replica",
        b"replica default default",
        b"replica replica replica",
    ]


def only(settings: Any, *, rules: bool, cookie: bool) -> None:
    """Leave a site either of what keeps a visitor logged in, or none."""
    cluster: dict[str, Any] = {"replicas": ["replica"], **({} if rules else {"on_primary": []})}
    routing = {} if cookie else {"COOKIE": None}
    settings.POOLKIT = {"CLUSTERS": {"default": cluster}, "ROUTING": routing}


@pytest.mark.parametrize(
    ("rules", "cookie"), [(True, True), (True, False), (False, True)],
    ids=["both", "by its rules", "by its cookie"],
)  # fmt: skip
def test_a_login_under_lag_keeps_the_visitor_logged_in(session_site, settings, rules, cookie):
    only(settings, rules=rules, cookie=cookie)
    client = Client()
    response = client.post("/enter/", follow=True)
    key = client.cookies["sessionid"].value
    then = b"ada default" if cookie else b"ada replica"
    assert response.content == then
    assert client.get("/who/").content == then
    assert client.cookies["sessionid"].value == key


@looped
async def test_the_same_on_an_asynchronous_site(session_site):
    client = AsyncClient()
    response = await client.post("/enter/")
    key = response.cookies["sessionid"].value
    assert (await client.get("/who/")).content == b"ada default"
    assert client.cookies["sessionid"].value == key


def test_without_either_that_login_is_lost(session_site, settings):
    # So the test above shows something.
    only(settings, rules=False, cookie=False)
    assert Client().post("/enter/", follow=True).content == b" replica"


@pytest.mark.parametrize("query", ["before", "write"])
def test_what_is_streamed_is_a_part_of_its_request(site, query):
    # By the middleware alone: the client calls no wrapper of ours.
    response = Client().get(f"/streamed/?{query}")
    assert b"".join(response) == b"default default"
    assert b"".join(Client().get("/streamed/")) == b"replica replica"


@looped
async def test_what_an_async_view_streams_is_a_part_of_its_request(site):
    found = {}
    for url in ("/async-streamed/?before", "/async-streamed/"):
        response: Any = await AsyncClient().get(url)
        found[url] = [piece async for piece in response]
    assert list(found.values()) == [
        [b"default", b" ", b"default"],
        [b"replica", b" ", b"default"],
    ]


def test_the_block_of_a_caller_lasts_as_long_as_it_says(site):
    def view(request: HttpRequest) -> StreamingHttpResponse:
        with use_primary():
            return StreamingHttpResponse(pieces(write=False))

    response = PoolkitMiddleware(view)(RequestFactory().get("/"))
    assert b"".join(response) == b"replica replica"  # type: ignore[arg-type]


def test_the_wsgi_wrapper_is_enough(site, settings):
    settings.MIDDLEWARE = []
    application = PoolkitWSGI(WSGIHandler())

    def get(url: str) -> bytes:
        environ = RequestFactory().get(url).environ
        result = application(environ, lambda *args: None)  # type: ignore[arg-type]
        try:
            return b"".join(result)
        finally:
            result.close()  # type: ignore[attr-defined]

    assert get("/aliases/?write") == b"replica default"
    assert get("/streamed/?write") == b"default default"
    assert get("/aliases/") == b"replica replica"


@looped
async def test_the_asgi_wrapper_is_enough(site, settings):
    settings.MIDDLEWARE = []
    application = Poolkit(ASGIHandler())

    async def get(url: str) -> Any:
        path, _, query = url.partition("?")
        factory: Any = AsyncRequestFactory()
        scope = factory._base_scope(path=path, query_string=query.encode())
        served = ApplicationCommunicator(application, {**scope, "method": "GET"})
        await served.send_input({"type": "http.request", "body": b""})
        body = b""
        while True:
            message = await served.receive_output(timeout=20)
            body += message.get("body", b"")
            if message["type"] == "http.response.body" and not message.get("more_body"):
                await served.wait()
                return body

    assert await get("/async/?write") == b"replica default default"
    assert await get("/async-streamed/") == b"replica default"
    assert await get("/aliases/?write") == b"replica default"
    assert await get("/aliases/") == b"replica replica"


@looped
async def test_two_requests_of_one_loop_share_nothing(site):
    client = AsyncClient()
    both = asyncio.gather(client.get("/async/?write"), client.get("/async/"))
    wrote, read = await both
    assert wrote.content == b"replica default default"
    assert read.content == b"replica replica replica"


@looped
async def test_a_context_that_a_server_reuses_carries_nothing_over(site):
    # A server may run its next request in a copy of the last one's context.
    middleware = PoolkitMiddleware(async_aliases)
    factory = AsyncRequestFactory()
    found = [await middleware(factory.get(f"/async/{query}")) for query in ("?write", "")]  # type: ignore[misc]
    assert [response.content.split()[1] for response in found] == [b"default", b"replica"]


@looped
async def test_what_a_view_leaves_running_is_no_part_of_its_request(site):
    # With the middleware alone, too: nobody else says that the request is over.
    ended = asyncio.Event()
    tasks = []

    async def outlives() -> tuple[str, str]:
        await ended.wait()
        with scope():
            before = await sync_to_async(alias_of)()
            await Item.objects.acreate(name="newer")
            return before, await sync_to_async(alias_of)()

    async def view(request: HttpRequest) -> HttpResponse:
        await Item.objects.acreate(name="new")
        tasks.append(asyncio.create_task(outlives()))
        with scope():  # one within the request
            return HttpResponse(alias_of())

    response = await PoolkitMiddleware(view)(AsyncRequestFactory().get("/"))  # type: ignore[misc]
    ended.set()
    assert response.content == b"default"
    assert await tasks[0] == ("replica", "default")


def test_what_is_streamed_joins_the_scope_of_its_request(site):
    def joining() -> Iterator[str]:
        with scope():
            yield alias_of()

    def view(request: HttpRequest) -> StreamingHttpResponse:
        Item.objects.create(name="new")
        return StreamingHttpResponse(joining())

    response = PoolkitMiddleware(view)(RequestFactory().get("/"))
    assert b"".join(response) == b"default"  # type: ignore[arg-type]

"""How often a request has a thread do something: never, where nothing needs one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pytest
import uvloop
from asgiref.sync import SyncToAsync
from django.core.cache import caches
from django.core.cache.backends.locmem import LocMemCache
from django.core.handlers.asgi import ASGIHandler
from django.core.signals import request_finished, request_started
from django.db import connection
from django.middleware.common import CommonMiddleware
from django.test import modify_settings, override_settings
from django.utils.deprecation import MiddlewareMixin

from django_poolkit.asgi import Poolkit
from django_poolkit.pools.postgres import ConnectionPool
from tests.aio.hops import Hops, counted
from tests.aio.orm_support import on_loop
from tests.app.models import Item
from tests.docs_support import DOCS
from tests.request_end.drive import Answered, AsgiServer, Exchange, scope

pytestmark = pytest.mark.core

FOUR = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]
Serve = Callable[..., tuple[Answered, Hops]]


class Foreign(MiddlewareMixin):
    """Middleware of a project, written for threads."""

    def process_request(self, request: Any) -> None:
        """Do nothing that the kit could know of."""


class Derived(CommonMiddleware):
    """Of one that is on the list, and might do more."""


@pytest.fixture
def pool(pooled: Callable[..., ConnectionPool]) -> ConnectionPool:
    """The pool of the default alias, in transaction mode."""
    Item.objects.exists()
    return pooled(max_size=4)


@pytest.fixture
def serve(pool: ConnectionPool) -> Iterator[Serve]:
    """Return a function that serves a request by the kit's ASGI handler, and counts."""

    def serve(
        path: str,
        *middleware: str,
        bridged: bool = False,
        wrap: bool = True,
        cookie: str = "",
        factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop,
        **settings: Any,
    ) -> tuple[Answered, Hops]:
        with (
            on_loop(middleware=bridged),
            override_settings(
                ROOT_URLCONF="tests.aio.hops_views", MIDDLEWARE=middleware, **settings
            ),
            counted() as hops,
        ):
            app = Poolkit(ASGIHandler()) if wrap else ASGIHandler()
            with asyncio.Runner(loop_factory=factory) as runner:
                answered = runner.run(get(app, path, cookie))
        return answered, hops

    yield serve
    connection.close()


async def get(app: Any, path: str, cookie: str) -> Answered:
    if not cookie:
        return await AsgiServer(app).aget(path)
    exchange = Exchange()
    asked = scope(path)
    asked["headers"].append((b"cookie", cookie.encode()))
    await app(asked, exchange.receive, exchange.send)
    return exchange.answered


@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize("wrap", [True, False], ids=["ours", "Django's"])
def test_a_request_that_needs_no_thread_has_none(serve: Serve, wrap: bool, factory: Any) -> None:
    started = []
    real = threading.Thread.start

    def start(self: threading.Thread) -> None:
        started.append(self.name)
        real(self)

    with mock.patch.object(threading.Thread, "start", start):
        answered, hops = serve("/queries/", wrap=wrap, factory=factory)
    assert (answered.status, answered.body) == (200, b"1")
    assert hops == []
    # Those of asgiref and of the loop; the pool has its own, which connect.
    assert [name for name in started if name.startswith(("ThreadPoolExecutor", "asyncio"))] == []


def test_a_stream_of_rows_needs_no_thread(serve: Serve) -> None:
    Item.objects.bulk_create([Item(name=name) for name in "abcde"])
    connection.close()
    answered, hops = serve("/stream/")
    assert answered.body == b"abcde"
    assert hops == []


def test_a_request_with_a_thread_ends_in_it(serve: Serve, pool: ConnectionPool) -> None:
    _, hops = serve("/threaded/", wrap=False)
    assert hops == ["QuerySet.count", "HttpResponseBase.close"]
    assert pool.stats().used == 0


@pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume")
def test_what_a_response_holds_open_is_closed_by_a_thread(serve: Serve) -> None:
    answered, hops = serve("/files/")
    assert answered.body == b"whole"
    assert "HttpResponseBase.close" in hops


@pytest.mark.parametrize("signal", [request_started, request_finished], ids=["start", "end"])
def test_a_receiver_of_a_project_keeps_its_thread(serve: Serve, signal: Any) -> None:
    threads = []

    def receive(**kwargs: Any) -> None:
        threads.append(threading.get_ident())

    signal.connect(receive)
    try:
        _, hops = serve("/queries/")
    finally:
        signal.disconnect(receive)
    assert len(hops) >= 1
    assert threads
    assert threading.get_ident() not in threads


def test_receivers_of_djangos_run_all_the_same(serve: Serve) -> None:
    ran: list[Any] = []
    with mock.patch("django.core.handlers.base.set_urlconf", ran.append):
        serve("/queries/")
    assert ran[-1] is None  # reset_urlconf(), told of the end


class Slow(LocMemCache):
    """A cache of others, which may do anything as it is closed."""

    def close(self, **kwargs: Any) -> None:
        """Do it."""


def test_a_foreign_cache_in_use_is_closed_by_a_thread(serve: Serve) -> None:
    named = {"default": {"BACKEND": f"{__name__}.Slow"}}
    with override_settings(CACHES=named):
        caches["default"].get("a")
        _, hops = serve("/queries/")
        del caches["default"]
    assert "HttpResponseBase.close" in hops


@pytest.fixture
def sessions(pool: ConnectionPool) -> Iterator[None]:
    """Have the table of Django's sessions."""
    with modify_settings(INSTALLED_APPS={"append": "django.contrib.sessions"}):
        from django.contrib.sessions.models import Session

        with connection.schema_editor() as editor:
            editor.create_model(Session)
        connection.close()
        yield
        with connection.schema_editor() as editor:
            editor.delete_model(Session)
        connection.close()


@pytest.mark.usefixtures("sessions")
def test_djangos_own_middleware_needs_no_thread_where_it_is_asked_to(serve: Serve) -> None:
    answered, hops = serve("/session/", *FOUR, bridged=True)
    assert (answered.status, answered.body) == (200, b"1 False")
    assert hops == []
    cookie = answered.headers["set-cookie"].split(";")[0]
    again, hops = serve("/session/", *FOUR, bridged=True, cookie=cookie)
    assert again.body == b"2 False"
    assert hops == []


@pytest.mark.usefixtures("sessions")
def test_the_kits_own_middleware_needs_none_either(serve: Serve) -> None:
    ours = "django_poolkit.middleware.PoolkitMiddleware"
    answered, hops = serve("/session/", ours, *FOUR, bridged=True)
    assert answered.body == b"1 False"
    assert hops == []


@pytest.mark.usefixtures("sessions")
def test_djangos_own_middleware_has_threads_as_ever_otherwise(serve: Serve) -> None:
    answered, hops = serve("/session/", *FOUR)
    assert answered.body == b"1 False"
    assert len(hops) >= 7


@pytest.mark.parametrize(
    ("engine", "hop"),
    [("signed_cookies", False), ("cache", True), ("file", True)],
)
def test_sessions_that_another_engine_keeps_have_threads(
    serve: Serve, engine: str, hop: bool
) -> None:
    name = f"django.contrib.sessions.backends.{engine}"
    answered, hops = serve("/session/", *FOUR, bridged=True, SESSION_ENGINE=name)
    assert answered.body == b"1 False"
    assert ("SessionMiddleware.process_response" in hops) is hop
    assert bool(hops) is hop


def test_middleware_of_a_project_keeps_its_thread(serve: Serve) -> None:
    _, hops = serve("/queries/", f"{__name__}.Foreign", bridged=True)
    assert "Foreign.process_request" in hops


def test_a_subclass_is_not_the_class(serve: Serve) -> None:
    _, hops = serve("/queries/", f"{__name__}.Derived", bridged=True)
    assert "CommonMiddleware.process_request" in hops


def test_errors_are_answered_by_a_thread_as_ever(serve: Serve) -> None:
    answered, hops = serve("/boom/", DEBUG=False)
    assert answered.status == 500
    assert "response_for_exception" in hops


def test_a_request_without_a_context_of_its_own_keeps_its_thread(pool: ConnectionPool) -> None:
    async def send() -> None:
        await request_started.asend(sender=None)

    with on_loop(), counted() as hops:
        asyncio.run(send())
    assert len(hops) == 1
    assert not SyncToAsync.context_to_thread_executor


def test_the_page_has_the_whole_list() -> None:
    from django_poolkit.aio.middlewares import MIDDLEWARE

    text = (DOCS / "reference/async-orm.md").read_text()
    section = text.split("\n## Middleware\n")[1].split("\n## ")[0]
    assert {line.split("`")[1] for line in section.splitlines() if line.startswith("| `")} == set(
        MIDDLEWARE
    )

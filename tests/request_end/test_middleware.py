"""The middleware by itself: what tests with Django's own clients see of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from asgiref.sync import iscoroutinefunction, sync_to_async
from django.db import connections
from django.http import FileResponse, HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.test import AsyncClient, Client, RequestFactory, override_settings

from django_poolkit.backends import request as requests
from django_poolkit.backends.request import KEY, RequestScope
from django_poolkit.middleware import PoolkitMiddleware
from django_poolkit.pools.postgres import ConnectionPool
from tests.app.models import Item
from tests.request_end.conftest import INNER, OURS, UNCLOSED

pytestmark = [pytest.mark.core, pytest.mark.filterwarnings(UNCLOSED)]


@pytest.fixture
def _settings() -> Iterator[None]:
    with override_settings(ROOT_URLCONF="tests.request_end.urls", MIDDLEWARE=[OURS]):
        yield


def sync_get(path: str) -> Any:
    return Client().get(path)


def async_get(path: str) -> Any:
    async def get() -> Any:
        response = await AsyncClient().get(path)
        await sync_to_async(connections.close_all)()
        return response

    return asyncio.run(get())


@pytest.mark.usefixtures("_settings")
@pytest.mark.parametrize("get", [sync_get, async_get])
@pytest.mark.parametrize("view", ["count", "acount", "drf"])
def test_the_test_client_sees_the_503(get: Any, view: str, full: ConnectionPool) -> None:
    # And not the exception, which it raises where Django has reported one.
    assert get(f"/{view}/").status_code == 503


def test_a_client_that_raises_no_exceptions(full: ConnectionPool) -> None:
    middleware = [OURS, f"{INNER}.queries"]
    with override_settings(ROOT_URLCONF="tests.request_end.urls", MIDDLEWARE=middleware):
        assert Client(raise_request_exception=False).get("/count/").status_code == 503


def test_twice_in_the_settings_acts_as_once(
    full: ConnectionPool, caplog: pytest.LogCaptureFixture
) -> None:
    with override_settings(ROOT_URLCONF="tests.request_end.urls", MIDDLEWARE=[OURS, OURS]):
        assert Client().get("/count/").status_code == 503
    assert len([r for r in caplog.records if r.name == "django_poolkit.request"]) == 1


def test_it_is_what_the_chain_is() -> None:
    async def asynchronous(request: HttpRequest) -> HttpResponseBase:
        return HttpResponse()

    def synchronous(request: HttpRequest) -> HttpResponseBase:
        return HttpResponse()

    assert iscoroutinefunction(PoolkitMiddleware(asynchronous))
    assert not iscoroutinefunction(PoolkitMiddleware(synchronous))


@pytest.mark.django_db(transaction=True)
def test_it_leaves_leases_to_those_who_end_them(pool: ConnectionPool) -> None:
    """A response may still be streamed when the middleware has long returned."""

    def view(request: HttpRequest) -> HttpResponseBase:
        Item.objects.count()
        return HttpResponse()

    PoolkitMiddleware(view)(RequestFactory().get("/"))
    assert pool.stats().used == 1
    Item.objects.count()
    assert pool.stats().used == 1


def test_it_joins_the_scope_of_a_wrapper() -> None:
    outer = RequestScope(owned=True)
    seen = []

    def view(request: HttpRequest) -> HttpResponseBase:
        seen.append(requests.current())
        return HttpResponse()

    request = RequestFactory().get("/")
    request.META[KEY] = outer
    PoolkitMiddleware(view)(request)
    assert seen == [outer]
    outer.over = True
    PoolkitMiddleware(view)(request)
    assert seen[1] is not outer


def test_what_a_replaced_response_holds_open_is_closed(full: ConnectionPool) -> None:
    file = open(__file__, "rb")  # noqa: PTH123, SIM115 - closed by the response

    def view(request: HttpRequest) -> HttpResponseBase:
        with suppress(TimeoutError):
            Item.objects.count()
        return FileResponse(file, status=500)

    response: Any = PoolkitMiddleware(view)(RequestFactory().get("/"))
    assert response.status_code == 503
    response.close()
    assert file.closed

"""A started application in tests: asynchronous and synchronous, with Django's own client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from django.core.handlers.asgi import ASGIHandler
from django.http import HttpRequest, JsonResponse
from django.test import override_settings
from django.urls import path
from starlette.applications import Starlette

from django_poolkit import lifespan
from django_poolkit.asgi import Poolkit
from django_poolkit.lifespan import ResourceError, declared
from django_poolkit.testing import AsyncSite, Site
from django_poolkit.testing.plugin import poolkit_site

# The plugin need not be installed here.
__all__ = ["poolkit_site"]

pytestmark = pytest.mark.core

APP = Poolkit(ASGIHandler())


class Service:
    """What the resource is open as."""

    def __init__(self) -> None:
        self.open = True
        self.loop = asyncio.get_running_loop()


@pytest.fixture(autouse=True)
def service() -> Any:
    before = dict(declared._declared)
    declared._declared.clear()

    @lifespan.resource
    async def service() -> AsyncIterator[Service]:
        made = Service()
        yield made
        made.open = False

    with override_settings(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"]):
        yield service
    declared._declared.clear()
    declared._declared.update(before)


def describe(request: HttpRequest, found: Service) -> JsonResponse:
    state = request.scope["state"]  # type: ignore[attr-defined]
    state["left"] = True
    return JsonResponse(
        {
            "open": found.open,
            "same": found is state["service"],
            "state": sorted(state),
            "method": request.method,
            "body": request.body.decode(),
        }
    )


def sync_view(request: HttpRequest) -> JsonResponse:
    return describe(request, lifespan.resources["service"].get())


async def async_view(request: HttpRequest) -> JsonResponse:
    found = await lifespan.resources["service"].aget()
    assert found.loop is asyncio.get_running_loop()
    return describe(request, found)


urlpatterns = [path("sync/", sync_view), path("async/", async_view)]


@pytest.mark.parametrize("target", ["/sync/", "/async/"])
def test_an_asynchronous_test_asks_the_site_on_its_loop(target: str) -> None:
    async def main() -> None:
        async with AsyncSite(APP) as site:
            opened = site.state["service"]
            for _ in range(2):
                response = await site.client.get(target)
                assert response.json()["open"] is response.json()["same"] is True
                assert response.json()["state"] == ["left", "service"]
        assert not opened.open

    asyncio.run(main())


@pytest.mark.parametrize("target", ["/sync/", "/async/"])
def test_a_synchronous_test_asks_the_site(target: str) -> None:
    with Site(APP) as site:
        opened = site.state["service"]
        response = site.client.post(target, "paid", content_type="text/plain")
        assert response.json()["open"] is response.json()["same"] is True
        assert (response.json()["method"], response.json()["body"]) == ("POST", "paid")
        assert site.run(lifespan.resources["service"].aget()) is opened
        assert site.client.cookies == {}
    assert not opened.open


STARTED: list[Service] = []


def test_the_fixture_starts_a_site(poolkit_site: Callable[..., Site]) -> None:
    site = poolkit_site(APP)
    assert site.client.get("/async/").status_code == 200
    STARTED.append(site.state["service"])
    assert STARTED[0].open


@pytest.fixture
def stopped() -> Iterator[None]:
    yield
    assert not STARTED.pop().open


def test_the_fixture_stops_it_after_the_test(
    stopped: None,
    poolkit_site: Callable[..., Site],
) -> None:
    STARTED[:] = [poolkit_site(APP).state["service"]]


def test_after_it_everything_opens_at_its_first_use_again(service: Any) -> None:
    with Site(APP):
        pass

    async def main() -> None:
        assert (await service.aget()).open

    asyncio.run(main())
    with Site(APP) as site:
        assert site.state["service"].open


def test_changes_of_the_settings_are_for_the_site_alone() -> None:
    @lifespan.resource
    async def hangs() -> AsyncIterator[None]:
        await asyncio.sleep(3600)
        yield

    said = "did not start: resource 'hangs': not open within"
    with pytest.raises(ResourceError, match=said), Site(APP, start_timeout=0.05):
        raise AssertionError


def test_an_application_without_a_lifespan_is_told_so() -> None:
    async def ignores(scope: Any, receive: Any, send: Any) -> None:
        return

    said = "did not start: it handles no lifespan"
    with pytest.raises(ResourceError, match=said), Site(ignores):
        raise AssertionError


def test_an_application_that_raises_is_heard() -> None:
    with pytest.raises(ValueError, match="lifespan"), Site(ASGIHandler()):
        raise AssertionError


def test_an_application_of_others_is_served_as_well() -> None:
    @asynccontextmanager
    async def own(app: Starlette) -> AsyncIterator[dict[str, Any]]:
        yield {"inner": "INNER"}

    with Site(Poolkit(Starlette(lifespan=own))) as site:
        assert sorted(site.state) == ["inner", "service"]


def test_a_test_that_fails_closes_all_the_same() -> None:
    opened: list[Service] = []
    with pytest.raises(RuntimeError, match="boom"), Site(APP) as site:
        opened.append(site.state["service"])
        raise RuntimeError("boom")
    assert not opened[0].open

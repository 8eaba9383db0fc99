"""The cache that knows what a user must see: on another device, or without any cookie of ours."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth import authenticate, login
from django.contrib.auth.models import User
from django.core.cache import caches
from django.core.cache.backends.locmem import LocMemCache
from django.db import connections
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, Client
from django.test.utils import override_settings
from django.urls import path

from django_poolkit.routing import entries, figures
from django_poolkit.routing.floors import Floor, Position
from django_poolkit.routing.token import unseal
from django_poolkit.testing.routing import record_routing
from tests.app.models import Item
from tests.routing.conftest import alias_of, looped

pytestmark = pytest.mark.core

OURS = "django_poolkit.middleware.PoolkitMiddleware"
DJANGOS = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]


def where(request: HttpRequest) -> HttpResponse:
    return HttpResponse(alias_of())


async def async_where(request: HttpRequest) -> HttpResponse:
    return HttpResponse(await sync_to_async(alias_of)())


def who(request: HttpRequest) -> HttpResponse:
    return HttpResponse(f"{request.user.get_username()} {alias_of()}")


def write(request: HttpRequest) -> HttpResponse:
    Item.objects.create(name="new")
    response = HttpResponse(request.user.get_username() if "look" in request.GET else "")
    if "public" in request.GET:
        response.headers["Cache-Control"] = "public"
    return response


def enter(request: HttpRequest) -> HttpResponse:
    user = authenticate(request, username=request.GET["as"], password="secret")
    assert user is not None
    login(request, user)
    return HttpResponse(alias_of())


urlpatterns = [
    path("where/", where),
    path("async-where/", async_where),
    path("who/", who),
    path("write/", write),
    path("enter/", enter),
]


class LooksAtUser:
    """Middleware that asks who it is before the view runs."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        assert request.user.is_authenticated
        return self.get_response(request)


class Down(LocMemCache):
    """A cache whose server is gone."""

    def get(self, *args: Any, **kwargs: Any) -> Any:
        raise ConnectionError("redis://:secret@cache:6379")

    def set(self, *args: Any, **kwargs: Any) -> Any:
        raise ConnectionError("redis://:secret@cache:6379")


@pytest.fixture
def site(routed: Any, settings: Any) -> Iterator[Any]:
    """These views with users and a cache; replicas get nothing new once `ada` and `bob` are in."""
    settings.ROOT_URLCONF = __name__
    settings.MIDDLEWARE = [OURS, *DJANGOS]
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    settings.CACHES = {
        "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "LOCATION": "one"},
        "down": {"BACKEND": f"{__name__}.Down"},
    }
    # Of cookies, only the session's: what is known otherwise is known by the cache.
    configure(settings)
    with override_settings(INSTALLED_APPS=[*settings.INSTALLED_APPS, "django.contrib.sessions"]):
        from django.contrib.sessions.models import Session

        with connections["default"].schema_editor() as editor:
            editor.create_model(Session)
        for name in ("ada", "bob"):
            User.objects.create_user(name, password="secret")
        for node in routed.replicas:
            routed.primary.wait_caught_up(node)
            node.pause_replay()
        yield routed
        caches["default"].clear()
        with connections["default"].schema_editor() as editor:
            editor.delete_model(Session)


def configure(settings: Any, **more: Any) -> None:
    section = {"WAIT": 0.01, "COOKIE": None, "CACHE": "default", **more}
    settings.POOLKIT = {**settings.POOLKIT, "ROUTING": section}


def device_of(name: str) -> Client:
    """Return a client that is logged in, and of whose login nobody has to know any more."""
    client = Client()
    client.post(f"/enter/?as={name}")
    forget(lambda key: ":link:" not in key)
    assert client.get("/where/").content == b"replica"
    return client


def test_what_a_user_wrote_on_one_device_is_seen_on_the_other(site):
    phone, desk, stranger = device_of("ada"), device_of("ada"), device_of("bob")
    phone.post("/write/")
    assert phone.get("/where/").content == b"default"
    assert desk.get("/where/").content == b"default"
    assert stranger.get("/where/").content == b"replica"
    assert Client().get("/where/").content == b"replica"


def test_no_session_is_loaded_for_it(site):
    phone, desk = device_of("ada"), device_of("ada")
    phone.post("/write/")
    with record_routing() as log:
        assert desk.get("/where/").content == b"default"
    # And where() reads nothing either: it only asks the router.
    assert {each.model for each in log.decisions} == {"app.Item"}


@looped
async def test_the_same_for_an_asynchronous_site(site):
    phone, desk = [await sync_to_async(device_of)("ada") for _ in range(2)]
    await sync_to_async(phone.post)("/write/")
    client = AsyncClient()
    client.cookies = desk.cookies
    assert (await client.get("/async-where/")).content == b"default"
    assert (await AsyncClient().get("/async-where/")).content == b"replica"


@looped
async def test_a_user_whom_middleware_has_looked_up_is_known_there_too(site, settings):
    phone, desk = [await sync_to_async(device_of)("ada") for _ in range(2)]
    await sync_to_async(phone.post)("/write/")
    await sync_to_async(forget_links)()
    settings.MIDDLEWARE = [OURS, *DJANGOS, f"{__name__}.LooksAtUser"]
    client = AsyncClient()
    client.cookies = desk.cookies
    assert (await client.get("/async-where/")).content == b"default"


def forget(which: Callable[[str], bool]) -> None:
    cache: Any = caches["default"]
    for key in list(cache._cache):
        if which(key):
            cache.delete(key.removeprefix(":1:"))


def forget_links() -> None:
    forget(lambda key: ":link:" in key)


def test_a_session_that_is_not_known_is_from_the_second_request_on(site):
    phone, desk = device_of("ada"), device_of("ada")
    phone.post("/write/")
    forget_links()
    assert desk.get("/who/").content == b"ada replica"  # the view is the first to ask who it is
    assert desk.get("/who/").content == b"ada default"


def test_a_user_whom_middleware_has_looked_up_is_known_at_once(site, settings):
    phone, desk = device_of("ada"), device_of("ada")
    phone.post("/write/")
    forget_links()
    settings.MIDDLEWARE = [OURS, *DJANGOS, f"{__name__}.LooksAtUser"]
    client = Client()  # one that has not loaded its middleware yet
    client.cookies = desk.cookies
    assert client.get("/where/").content == b"default"


def test_who_logs_in_sees_what_it_wrote_elsewhere(site):
    phone = device_of("ada")
    phone.post("/write/")
    desk = Client()
    desk.post("/enter/?as=ada")
    assert desk.get("/where/").content == b"default"


def test_a_login_is_known_to_the_other_devices(site):
    # What was written by the login itself: the time of the last one.
    phone = device_of("ada")
    Client().post("/enter/?as=ada")
    assert phone.get("/where/").content == b"default"


def test_a_visitor_without_a_user_has_an_entry_of_its_own(site):
    credentials = {"Authorization": "Bearer one"}
    Client().post("/write/", headers=credentials)
    assert Client().get("/where/", headers=credentials).content == b"default"
    assert Client().get("/where/", headers={"Authorization": "other"}).content == b"replica"
    assert Client().get("/where/").content == b"replica"


def test_what_everyone_may_get_is_carried_by_the_cache_alone(site, settings):
    phone = device_of("ada")
    configure(settings, COOKIE="poolkit_floor", HEADER="X-Floor")
    response = phone.post("/write/?public")
    assert "X-Floor" not in response.headers
    assert not response.cookies
    assert phone.get("/where/").content == b"default"


def test_several_writes_are_seen_together(site):
    phone, desk = device_of("ada"), device_of("ada")
    phone.post("/write/")
    first = tokens()
    desk.post("/write/")
    assert len(first) == len(tokens()) == 1
    assert first != tokens()
    assert phone.get("/where/").content == b"default"


def test_one_that_comes_late_undoes_nothing(site):
    newer, older = (Floor(Position(1, 1, lsn), time.time() + 20) for lsn in (200, 100))
    for each in (newer, older):
        entries.write("default", {"default": each}, b"visitor", None)
    [found] = entries.read("default", b"visitor", None)[0].values()
    assert found.position == newer.position


def test_what_a_request_has_known_is_no_part_of_what_it_enters(site):
    until = time.time() + 20
    over, now = Floor(Position(1, 1, 200), until), Floor(Position(1, 2, 100), until)
    for before in (over, Floor(None, until)):
        caches["default"].clear()
        entries.write("default", {"default": before}, b"visitor", None)
        known, _ = entries.read("default", b"visitor", None)
        entries.write("default", {"default": now}, b"visitor", None, known)
        assert entries.read("default", b"visitor", None)[0]["default"].position == now.position
        # What another one has entered meanwhile is.
        entries.write("default", {"default": over}, b"visitor", None, known)
        assert entries.read("default", b"visitor", None)[0]["default"].position is None


def test_what_was_seen_on_the_primary_is_entered_too(site):
    phone = device_of("ada")
    phone.post("/write/")
    first = entered()
    Item.objects.using("default").create(name="of another")
    assert phone.get("/where/").content == b"default"
    assert first < entered()


def entered() -> int:
    """Return how far a user must see by the cache."""
    cache: Any = caches["default"]
    [key] = [key.removeprefix(":1:") for key in cache._cache if ":floor:user:" in key]
    position = unseal(cache.get(key))["default"].position
    assert position is not None
    return position.lsn


def tokens() -> list[Any]:
    cache: Any = caches["default"]
    return [value for key, value in cache._cache.items() if ":floor:user:" in key]


def test_keys_and_values_show_nothing(site):
    phone = device_of("ada")
    phone.post("/write/?look")
    cache: Any = caches["default"]
    shown = repr(list(cache._cache)) + repr(
        [cache.get(key.removeprefix(":1:")) for key in cache._cache]
    )
    assert phone.cookies["sessionid"].value not in shown
    assert "poolkit:floor:user:" in shown
    assert f"user:{User.objects.using('default').get(username='ada').pk}'" not in shown


# -- a cache that fails


def test_a_cache_that_is_down_costs_nobody_a_request(site, settings, caplog):
    configure(settings, COOKIE="poolkit_floor", CACHE="down")
    entries._failing = False
    phone = Client()
    phone.post("/enter/?as=ada")
    with caplog.at_level(logging.WARNING, logger="django_poolkit"):
        before = failures()
        assert phone.post("/write/").status_code == 200
        assert phone.get("/where/").content == b"default"  # the cookie carries it
        assert failures() >= before + 2
    assert "secret" not in caplog.text


def test_it_is_said_once(site, settings, caplog):
    configure(settings, CACHE="down")
    entries._failing = False
    with caplog.at_level(logging.WARNING, logger="django_poolkit"):
        for _ in range(3):
            assert Client().get("/where/", headers={"Authorization": "x"}).status_code == 200
    [line] = [each.getMessage() for each in caplog.records if each.name == "django_poolkit.routing"]
    assert line == "event=carrier_failed carrier=cache alias=down error=ConnectionError"


def test_what_is_no_token_in_it_is_nothing(site):
    phone = device_of("ada")
    phone.post("/write/")
    cache: Any = caches["default"]
    for key in list(cache._cache):
        cache.set(key.removeprefix(":1:"), object() if ":link:" in key else "nothing")
    assert phone.get("/where/").content == b"replica"


def failures() -> int:
    return figures.figures.read().get(("", "cache_failed"), 0)

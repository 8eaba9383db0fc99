"""The header that says where a request has read, and why: to those who want it, and no more."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, Client
from django.urls import path

from django_poolkit.routing import NoReplica, admission, scope, shown, use_primary
from django_poolkit.routing.breaker import Circuit
from django_poolkit.routing.scopes import Scope
from tests.app.models import Item
from tests.routing.conftest import alias_of, looped

NAME = "X-Routing"
OURS = "django_poolkit.middleware.PoolkitMiddleware"


def reads(request: HttpRequest) -> HttpResponse:
    list(Item.objects.all())
    alias_of(User)
    with use_primary():
        alias_of()
    alias_of()
    return HttpResponse()


def writes(request: HttpRequest) -> HttpResponse:
    alias_of()
    Item.objects.create(name="new")
    alias_of()
    return HttpResponse(headers={"Cache-Control": "public"})


def nothing(request: HttpRequest) -> HttpResponse:
    return HttpResponse()


def fails(request: HttpRequest) -> HttpResponse:
    alias_of()
    raise RuntimeError


async def at_once(request: HttpRequest) -> HttpResponse:
    await asyncio.gather(*(sync_to_async(alias_of)() for _ in range(5)))
    return HttpResponse()


def missing(request: HttpRequest) -> HttpResponse:
    try:
        alias_of()
    except NoReplica:
        return HttpResponse()
    raise AssertionError


urlpatterns = [
    path("reads/", reads),
    path("writes/", writes),
    path("nothing/", nothing),
    path("fails/", fails),
    path("at-once/", at_once),
    path("missing/", missing),
]


@pytest.fixture
def site(routed: Any, settings: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """These views, with our middleware and the header."""
    monkeypatch.setattr(shown, "on", False)
    settings.ROOT_URLCONF = __name__
    settings.MIDDLEWARE = [OURS]
    settings.POOLKIT = {**settings.POOLKIT, "ROUTING": {"DEBUG_HEADER": NAME}}
    return routed


def said(url: str, method: str = "get") -> str | None:
    response = getattr(Client(raise_request_exception=False), method)(url)
    text: str | None = response.headers.get(NAME)
    return text


def test_it_says_how_often_was_read_where_and_why(site):
    assert said("/reads/") == (
        'read;cluster="default";from=replica;count=2, '
        'rule;cluster="default";from=primary;count=1, '
        'use_primary;cluster="default";from=primary;count=1'
    )
    # Each request has its own.
    assert said("/reads/") == said("/reads/")
    assert said("/reads/", "post") == (
        'unsafe_request;cluster="default";from=primary;count=2, '
        'rule;cluster="default";from=primary;count=1, '
        'use_primary;cluster="default";from=primary;count=1'
    )


def test_an_answer_for_everybody_and_an_error_have_it_too(site):
    assert said("/writes/") == (
        'read;cluster="default";from=replica;count=1, wrote;cluster="default";from=primary;count=1'
    )
    assert said("/fails/") == 'read;cluster="default";from=replica;count=1'


def test_where_nothing_was_read_there_is_nothing(site):
    assert said("/nothing/") is None


def test_without_the_setting_nothing_is_noted(site, settings):
    settings.POOLKIT = {**settings.POOLKIT, "ROUTING": {}}
    response = Client().get("/reads/")
    assert not any("read;" in value for value in response.headers.values())
    assert not shown.on


@looped
async def test_what_runs_side_by_side_is_of_one_request(site):
    responses = await asyncio.gather(*(AsyncClient().get("/at-once/") for _ in range(3)))
    for response in responses:
        assert response.headers[NAME] == 'read;cluster="default";from=replica;count=5'


def test_a_read_that_may_go_nowhere_is_said(site, settings):
    clusters = {"default": {"replicas": ["replica"], "all_down": "error"}}
    settings.POOLKIT = {**settings.POOLKIT, "CLUSTERS": clusters}
    circuit = Circuit()
    circuit.bad("refuses")
    admission.publish({"replica": circuit})
    try:
        assert said("/missing/") == 'error;cluster="default";count=1'
    finally:
        admission.publish({})


def test_it_names_no_server_and_no_model(site):
    text = said("/reads/")
    assert text is not None
    for node in (site.primary, *site.replicas):
        for secret in (str(node.host), str(node.port), "postgres", "Item", "item", "127."):
            assert secret not in text
    assert set(re.findall(r"[a-z_]+", text)) == {
        "read", "rule", "use_primary", "cluster", "default", "from", "replica", "primary", "count",
    }  # fmt: skip


def test_no_name_of_a_cluster_breaks_a_header(site):
    here, response = Scope(), HttpResponse()
    shown.begin(here)
    assert here.decisions is not None
    here.decisions.count('a"b\\c\r\nSet-Cookie: x=é', "read")
    shown.show(here, response, NAME)
    expected = r'read;cluster="a\"b\\c??Set-Cookie: x=?";from=replica;count=1'
    assert response.headers[NAME] == expected


def test_what_runs_outside_of_requests_is_nobodys(site):
    Client().get("/reads/")
    assert shown.on
    with scope() as here:
        alias_of()
    assert here.decisions is None
    alias_of()

"""`ATOMIC_REQUESTS` on the primary: what only reads may read a replica, if the settings say so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection, connections, transaction
from django.http import HttpRequest, HttpResponse
from django.template import engines
from django.template.response import TemplateResponse
from django.test import AsyncClient, Client
from django.urls import path

from django_poolkit.testing.routing import record_routing
from tests.app.models import Item
from tests.routing.conftest import alias_of, looped

pytestmark = pytest.mark.core


def reads(request: HttpRequest) -> HttpResponse:
    assert connection.in_atomic_block
    return HttpResponse(f"{alias_of()} {Item.objects.get()._state.db}")


def writes(request: HttpRequest) -> HttpResponse:
    before = alias_of()
    Item.objects.create(name="new")
    return HttpResponse(f"{before} {alias_of()}")


def nested(request: HttpRequest) -> HttpResponse:
    before = alias_of()
    with transaction.atomic():
        inside = alias_of()
    return HttpResponse(f"{before} {inside} {alias_of()}")


@transaction.non_atomic_requests
def by_hand(request: HttpRequest) -> HttpResponse:
    before = alias_of()
    with transaction.atomic():
        return HttpResponse(f"{before} {alias_of()}")


def rendered(request: HttpRequest) -> TemplateResponse:
    return TemplateResponse(
        request, engines["django"].from_string("{{ view }} {{ atomic }}"),
        {"view": alias_of(), "atomic": in_a_block},
    )  # fmt: skip


def in_a_block() -> str:
    with transaction.atomic():
        return alias_of()


def fails(request: HttpRequest) -> HttpResponse:
    raise RuntimeError(alias_of())


class AnswersErrors:
    """Reads in a block of its own when a view has failed."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self.get_response(request)

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse:
        return HttpResponse(f"{exception} {in_a_block()}")


class Around:
    """Runs all there is in a transaction of its own."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        with transaction.atomic():
            response = self.get_response(request)
            response.headers["After"] = alias_of()
            return response


urlpatterns = [
    path("reads/", reads),
    path("writes/", writes),
    path("nested/", nested),
    path("by-hand/", by_hand),
    path("rendered/", rendered),
    path("fails/", fails),
]


@pytest.fixture
def atomic_site(paused: Any, settings: Any) -> Any:
    """These views, each in a transaction, in a cluster whose views may read a replica in one."""
    settings.ROOT_URLCONF = __name__
    settings.MIDDLEWARE = ["django_poolkit.middleware.PoolkitMiddleware"]
    settings.TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates"}]
    settings.POOLKIT = clusters(settings, "replica")
    connections.settings["default"]["ATOMIC_REQUESTS"] = True
    return paused


def clusters(settings: Any, atomic_requests: str) -> dict[str, Any]:
    entry = {"replicas": ["replica"], "atomic_requests": atomic_requests}
    return {**settings.POOLKIT, "CLUSTERS": {"default": entry}}


def test_a_view_that_only_reads_reads_a_replica(atomic_site):
    assert Client().get("/reads/").content == b"replica replica"
    assert Client().head("/reads/").status_code == 200


def test_otherwise_it_reads_its_transaction(atomic_site, settings):
    settings.POOLKIT = clusters(settings, "primary")
    assert Client().get("/reads/").content == b"default default"


def test_once_it_has_written_it_reads_the_primary(atomic_site):
    assert Client().get("/writes/").content == b"replica default"
    assert set(Item.objects.using("default").values_list("name", flat=True)) == {"old", "new"}


def test_what_is_there_to_change_something_reads_its_transaction(atomic_site):
    with record_routing() as log:
        assert Client().post("/reads/").content == b"default default"
    assert {each.reason for each in log.decisions} <= {"transaction", "unsafe_request"}


def test_a_block_of_the_view_is_meant_as_one(atomic_site):
    assert Client().get("/nested/").content == b"replica default replica"
    assert Client().get("/by-hand/").content == b"replica default"


def test_a_block_after_the_view_is_meant_as_one(atomic_site, settings):
    assert Client().get("/rendered/").content == b"replica default"
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, f"{__name__}.AnswersErrors"]
    assert Client().get("/fails/").content == b"replica default"


def test_a_block_around_the_view_is_meant_as_one(atomic_site, settings):
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, f"{__name__}.Around"]
    response = Client().get("/reads/")
    assert response.content == b"default default"
    assert response.headers["After"] == "default"


@looped
async def test_the_same_for_a_view_of_an_asynchronous_site(atomic_site):
    client = AsyncClient()
    both = await asyncio.gather(client.get("/reads/"), client.get("/nested/"))
    assert [each.content for each in both] == [b"replica replica", b"replica default replica"]
    assert (await client.get("/rendered/")).content == b"replica default"
    assert (await client.get("/writes/")).content == b"replica default"

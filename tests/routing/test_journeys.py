"""Visitors on their way through a site, while its replicas stop and go on as they like."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import connection, connections, transaction
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.test import AsyncClient, Client
from django.urls import path

from django_poolkit.backends import ports
from django_poolkit.routing import choice, scope
from django_poolkit.routing.floors import Floor
from django_poolkit.routing.outgoing import outgoing
from django_poolkit.routing.settling import settle
from django_poolkit.testing import Cluster
from tests.app.models import Item
from tests.routing.conftest import entry, looped

VISITORS = 8
SECONDS = 3.0
SHARED = 1


def change(pk: int, block: bool) -> None:
    """Change a visitor's own row, and the one that all of them change."""
    if block:
        with transaction.atomic():
            change(pk, block=False)
        return
    for changed in (pk, SHARED):
        with connection.cursor() as cursor:
            cursor.execute(
                "UPDATE app_item SET name = (name::int + 1)::text WHERE id = %s", [changed]
            )


def show(pk: int) -> dict[str, Any]:
    own, shared = Item.objects.get(pk=pk), Item.objects.get(pk=SHARED)
    return {"own": int(own.name), "shared": int(shared.name), "alias": own._state.db}


def row(request: HttpRequest, pk: int) -> HttpResponse:
    if request.method == "POST":
        change(pk, block="block" in request.GET)
        return HttpResponse()
    return JsonResponse(show(pk))


async def async_row(request: HttpRequest, pk: int) -> HttpResponse:
    if request.method == "POST":
        await sync_to_async(change)(pk, block="block" in request.GET)
        return HttpResponse()
    return JsonResponse(await sync_to_async(show)(pk))


urlpatterns = [path("<int:pk>/", row), path("async/<int:pk>/", async_row)]


@pytest.fixture
def site(routed: Cluster, settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """These views; `replica` leads to both replicas, and each visitor has a row everywhere."""
    monkeypatch.setattr(ports, "choose_host", choice.host_for)
    monkeypatch.setattr(ports, "keeps_host", choice.keeps_host)
    # However slow this is, a server says where it is.
    monkeypatch.setattr("django_poolkit.routing.outgoing.BUDGET", 30.0)
    monkeypatch.setattr("django_poolkit.routing.positions._PATIENCE", 30.0)
    monkeypatch.setattr("django_poolkit.backends.postgresql.hosts._PATIENCE", 30.0)
    settings.ROOT_URLCONF = __name__
    settings.MIDDLEWARE = ["django_poolkit.middleware.PoolkitMiddleware"]
    hosts = [{"HOST": node.host, "PORT": node.port} for node in routed.replicas]
    options = {"pool": {"max_size": 8, "mode": "transaction"}, "hosts": hosts}
    connections["replica"].close()
    del connections["replica"]
    connections.settings["replica"] = entry(routed.replicas[0], OPTIONS=options)
    routed.primary.execute(
        "INSERT INTO app_item (id, name, created) SELECT n, '0', now()"
        " FROM generate_series(1, %s) AS n",
        (VISITORS + 1,),
    )
    for node in routed.replicas:
        routed.primary.wait_caught_up(node)
    yield routed
    for node in routed.replicas:
        node.resume_replay()


@contextmanager
def unsteady(cluster: Cluster) -> Iterator[None]:
    """Have each replica stop and go on, at random."""
    ended = threading.Event()

    def disturb(number: int) -> None:
        chance, node = random.Random(number), cluster.replicas[number]
        while not ended.wait(chance.uniform(0.02, 0.25)):
            node.pause_replay()
            ended.wait(chance.uniform(0.02, 0.4))
            node.resume_replay()

    with ThreadPoolExecutor(2) as pool:
        disturbing = [pool.submit(disturb, number) for number in range(2)]
        try:
            yield
        finally:
            ended.set()
    for each in disturbing:
        each.result()


class Journey:
    """What one visitor has written and seen."""

    def __init__(self, number: int) -> None:
        self.pk = number + 2
        self.chance = random.Random(number)
        self.until = time.monotonic() + SECONDS
        # By this a client of an API is known: its reads have a host of their own.
        self.known: Any = {"headers": {"Authorization": f"Bearer {number}"}}
        self.written = self.shared = 0
        self.sources: Counter[str] = Counter()

    def goes_on(self) -> bool:
        return time.monotonic() < self.until

    def next(self) -> str | None:
        """Return what to write by, None to read."""
        if self.chance.random() >= 0.2:
            return None
        self.written += 1
        return self.chance.choice(["block", "one"])

    def saw(self, response: Any) -> None:
        found = response.json()
        assert found["own"] == self.written
        assert found["shared"] >= self.shared
        self.shared = found["shared"]
        self.sources[found["alias"]] += 1


def judge(journeys: list[Journey]) -> None:
    sources = sum((each.sources for each in journeys), Counter[str]())
    # However slow this is; and what is read is not only the primary.
    assert sources["replica"] > 0
    assert sum(each.written for each in journeys) > 0


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_nobody_reads_what_is_older_than_it_has_written_or_seen(site, mode):
    connections.settings["replica"]["OPTIONS"]["pool"]["mode"] = mode
    journeys = [Journey(number) for number in range(VISITORS)]

    def go(journey: Journey) -> None:
        client, url = Client(), f"/{journey.pk}/"
        try:
            while journey.goes_on():
                if (how := journey.next()) is not None:
                    assert client.post(f"{url}?{how}", **journey.known).status_code == 200
                else:
                    journey.saw(client.get(url, **journey.known))
        finally:
            connections.close_all()

    with unsteady(site), ThreadPoolExecutor(VISITORS) as pool:
        for each in [pool.submit(go, journey) for journey in journeys]:
            each.result()
    judge(journeys)


@looped
async def test_neither_does_anybody_whom_one_loop_serves(site):
    journeys = [Journey(number) for number in range(VISITORS)]

    async def go(journey: Journey) -> None:
        client, url = AsyncClient(), f"/async/{journey.pk}/"
        while journey.goes_on():
            if (how := journey.next()) is not None:
                assert (await client.post(f"{url}?{how}", **journey.known)).status_code == 200
            else:
                journey.saw(await client.get(url, **journey.known))

    with unsteady(site):
        await asyncio.gather(*(go(journey) for journey in journeys))
    judge(journeys)


def test_what_all_replicas_have_is_carried_no_further(site):
    client = Client()
    first, second = site.replicas
    first.pause_replay()
    second.pause_replay()
    client.post("/2/")
    assert client.get("/2/").json() == {"own": 1, "shared": 1, "alias": "default"}
    assert any(morsel.value for morsel in client.cookies.values())
    second.resume_replay()
    site.primary.wait_caught_up(second)
    # One of them has it: that is read, and the other still is not.
    for _ in range(4):
        assert client.get("/2/").json() == {"own": 1, "shared": 1, "alias": "replica"}
    assert any(morsel.value for morsel in client.cookies.values())
    first.resume_replay()
    site.primary.wait_caught_up(first)
    deadline = time.monotonic() + 20.0
    while any(morsel.value for morsel in client.cookies.values()):
        assert client.get("/2/").json()["alias"] == "replica"
        assert time.monotonic() < deadline


def lsn(floors: Mapping[str, Floor]) -> int:
    position = floors["default"].position
    assert position is not None
    return position.lsn


def test_what_the_primary_has_shown_of_others_goes_along(site):
    for node in site.replicas:
        node.pause_replay()
    with scope() as mine:
        change(2, block=True)
        written = outgoing(mine)
    with scope() as others:
        change(3, block=True)
        newer = outgoing(others)
    for reads in (True, False):
        with scope() as here:
            here.raise_floor("default", written["default"])
            settle(here)
            if reads:
                assert show(2) == {"own": 1, "shared": 2, "alias": "default"}
            found = lsn(outgoing(here))
        # Who has seen it has to see it again; who has not need not.
        assert found >= lsn(newer) if reads else found == lsn(written)

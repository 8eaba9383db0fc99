"""Visitors of a small site, each way of routing in a process of its own: for `routing_share`."""

from __future__ import annotations

import json
import os
import random
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.urls import path

PIN = 5.0
"""Seconds for which a write pins its visitor, where that is the way."""
WRITES = 0.1
"""Of a visitor's visits: so many begin with a write."""

OURS: dict[str, Any] = {
    "MIDDLEWARE": ["django_poolkit.middleware.PoolkitMiddleware"],
    "DATABASE_ROUTERS": ["django_poolkit.routing.ReadWriteRouter"],
}
POOLKIT: dict[str, Any] = {"CONTROL": {"ENABLED": False}}
WAYS: dict[str, dict[str, Any]] = {
    "position": {
        **OURS,
        "POOLKIT": {**POOLKIT, "CLUSTERS": {"default": {"replicas": ["replica"]}}},
    },
    "time": {
        **OURS,
        "POOLKIT": {
            **POOLKIT,
            "CLUSTERS": {"default": {"replicas": ["replica"], "position": "time"}},
            "ROUTING": {"PIN": PIN},
        },
    },
    "multidb": {
        "MIDDLEWARE": ["multidb.middleware.PinningRouterMiddleware"],
        "DATABASE_ROUTERS": ["multidb.PinningReplicaRouter"],
        "REPLICA_DATABASES": ["replica"],
        "MULTIDB_PINNING_SECONDS": int(PIN),
        "POOLKIT": POOLKIT,
    },
}


def configure(way: str, entries: dict[str, Any], visitors: int) -> None:
    """Set Django up with one way to route."""
    import django
    from django.conf import settings

    pool = {"mode": "transaction", "max_size": max(4, visitors // 4)}
    settings.configure(
        SECRET_KEY="of a benchmark",
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF="tests.benchmarks.routing_visitors",
        INSTALLED_APPS=["django_poolkit", "tests.app"],
        USE_TZ=True,
        DATABASES={
            alias: {
                "ENGINE": "django_poolkit.backends.postgresql",
                **entry,
                "OPTIONS": {"pool": pool},
            }
            for alias, entry in entries.items()
        },
        LOGGING_CONFIG=None,
        **WAYS[way],
    )
    django.setup()


def row(request: HttpRequest, pk: int) -> HttpResponse:
    """Show a visitor's row, and where it was read; or change it."""
    from tests.app.models import Item

    if request.method == "POST":
        Item.objects.filter(pk=pk).update(name=request.body.decode())
        return HttpResponse()
    item = Item.objects.get(pk=pk)
    return HttpResponse(f"{item.name} {item._state.db}")


urlpatterns = [path("<int:pk>/", row)]


@dataclass
class Counts:
    """What the visitors of one way met at one lag."""

    pages: int = 0
    from_replica: int = 0
    stale: int = 0
    seconds: list[float] = field(default_factory=list)


class Visitor:
    """Somebody with a browser, who keeps cookies for as long as they are good."""

    def __init__(self, pk: int, think: float) -> None:
        from django.test import Client

        self._client = Client()
        self._path = f"/{pk}/"
        self._think = think
        self._chance = random.Random(pk)
        self._cookies: dict[str, tuple[str, float]] = {}
        self._written = 0
        self.counts = Counts()

    def stay(self, ended: threading.Event) -> None:
        """Ask for one page after the other, until it is enough."""
        from django.db import connections

        try:
            while not ended.wait(self._chance.expovariate(1 / self._think)):
                if self._chance.random() < WRITES:
                    self._written += 1
                    self._send("POST", str(self._written))
                self._look()
        finally:
            connections.close_all()

    def _look(self) -> None:
        started = time.perf_counter()
        name, alias = self._send("GET").content.decode().split()
        counts = self.counts
        counts.seconds.append(time.perf_counter() - started)
        counts.pages += 1
        counts.from_replica += alias == "replica"
        counts.stale += int(name) < self._written

    def _send(self, method: str, body: str = "") -> Any:
        now = time.monotonic()
        # Django's client keeps each cookie for ever, which no browser does.
        self._client.cookies.clear()
        for name, (value, until) in self._cookies.items():
            if now < until:
                self._client.cookies[name] = value
        response = self._client.generic(method, self._path, body, "text/plain")
        for name, morsel in response.cookies.items():
            age = morsel["max-age"]
            self._cookies[name] = (morsel.value, now + (float("inf") if age == "" else float(age)))
        return response


def serve(way: str, entries: dict[str, Any], visitors: int, think: float) -> None:
    """Have visitors at a site of one way; print what they met each time a line is read."""
    configure(way, entries, visitors)
    ended = threading.Event()
    present = [Visitor(pk, think) for pk in range(1, visitors + 1)]
    threads = [threading.Thread(target=each.stay, args=(ended,)) for each in present]
    for thread in threads:
        thread.start()
    print("ready", flush=True)
    for _ in sys.stdin:
        found = []
        for each in present:
            found.append(each.counts)
            each.counts = Counts()
        print(json.dumps([vars(each) for each in found]), flush=True)
    ended.set()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    serve(sys.argv[1], json.loads(os.environ["ENTRIES"]), int(sys.argv[2]), float(sys.argv[3]))

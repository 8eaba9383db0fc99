"""Requests with the panel of debug toolbar: `python -m tests.neighbours.toolbar.drive`.

Prints as JSON what the panel has kept of each of them, by the name of the view.
"""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

import django
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.urls import include, path

given: dict[str, Any] = json.loads(os.environ["TOOLBAR"])
settings.configure(
    DEBUG=True,
    SECRET_KEY="tests only",
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["*"],
    INTERNAL_IPS=["127.0.0.1"],
    USE_TZ=True,
    DATABASES={"default": given["database"]},
    INSTALLED_APPS=["django.contrib.staticfiles", "debug_toolbar", "django_poolkit"],
    MIDDLEWARE=["debug_toolbar.middleware.DebugToolbarMiddleware"],
    DEBUG_TOOLBAR_PANELS=["django_poolkit.contrib.debug_toolbar.PoolkitPanel"],
    STATIC_URL="static/",
    TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}],
)
django.setup()

from asgiref.sync import sync_to_async  # noqa: E402
from debug_toolbar.store import get_store  # noqa: E402
from django.db import OperationalError, connection, transaction  # noqa: E402
from django.test import AsyncClient, Client  # noqa: E402

from django_poolkit import connection_pools, registry  # noqa: E402


def run(*statements: str) -> None:
    """Run statements, each on a cursor of its own."""
    for statement in statements:
        with connection.cursor() as cursor:
            cursor.execute(statement)


def done() -> HttpResponse:
    """Return a page that the toolbar has room on."""
    return HttpResponse("<html><body>done</body></html>")


def plain(request: HttpRequest) -> HttpResponse:
    """Run two statements, a block of two, and one that pins."""
    run("SELECT 1", "SELECT 2")
    with transaction.atomic():
        run("SELECT 3", "SELECT 4")
    run("SET statement_timeout = 1000", "SELECT 5")
    return done()


async def coroutine(request: HttpRequest) -> HttpResponse:
    """Run them in a thread, from a coroutine."""
    await sync_to_async(run)("SELECT 1", "SELECT 2")
    await sync_to_async(lambda: connection.close())()  # as the wrapper of a server does
    return done()


def short(request: HttpRequest) -> HttpResponse:
    """Ask a pool that has nothing to give."""
    pool = connection_pools["default"]
    leases = [pool.acquire() for _ in range(pool.max_size)]
    before, pool.timeout = pool.timeout, 0.05
    try:
        run("SELECT 1")
    except OperationalError:
        pass
    finally:
        pool.timeout = before
        for lease in leases:
            lease.release()
    return done()


def idle(request: HttpRequest) -> HttpResponse:
    """Ask for nothing."""
    return done()


urlpatterns: list[Any] = [
    path("plain/", plain),
    path("coroutine/", coroutine),
    path("short/", short),
    path("idle/", idle),
    path("__debug__/", include("debug_toolbar.urls")),
]


async def ask(address: str) -> Any:
    """Send a request as an ASGI server does."""
    return await AsyncClient(raise_request_exception=True).get(address)


def main() -> None:
    """Run it all."""
    store: Any = get_store()
    found: dict[str, Any] = {}
    for name in ("plain", "coroutine", "short", "idle"):
        before = set(store.request_ids())
        address = f"/{name}/"
        response = asyncio.run(ask(address)) if name == "coroutine" else Client().get(address)
        assert b"done" in response.content, response.content[:2000]
        connection.close()
        [request_id] = set(store.request_ids()) - before
        asked = {"request_id": request_id, "panel_id": "PoolkitPanel"}
        shown = Client().get("/__debug__/render_panel/", asked).json()["content"]
        found[name] = {
            "stats": store.panel(request_id, "PoolkitPanel"),
            "page": shown,
            "bar": response.content.decode(),
        }
    events = registry.pools.events
    found["left"] = [repr(each) for each in events.of_leases] + connection.execute_wrappers
    print(json.dumps(found))


if __name__ == "__main__":
    main()

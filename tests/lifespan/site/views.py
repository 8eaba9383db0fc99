"""Views that use resources and the database, for a moment and for long."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from typing import Any

from asgiref.sync import sync_to_async
from django.db import connection
from django.http import HttpRequest, HttpResponseBase, JsonResponse, StreamingHttpResponse

from django_poolkit import lifespan
from tests.lifespan.site.journal import note


def _backend() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return int(cursor.fetchone()[0])


def pid(request: HttpRequest) -> JsonResponse:
    """Tell which worker this is."""
    return JsonResponse({"pid": os.getpid()})


def state(request: HttpRequest) -> JsonResponse:
    """Tell what the scope's state holds, and leave something in it."""
    scope: dict[str, Any] = getattr(request, "scope", {})
    found = scope.get("state")
    names = None if found is None else sorted(found)
    if found is not None:
        found["left"] = True
        found.pop("a", None)
    return JsonResponse({"pid": os.getpid(), "state": names})


def query(request: HttpRequest) -> JsonResponse:
    """Use the database."""
    return JsonResponse({"pid": os.getpid(), "backend": _backend()})


async def aquery(request: HttpRequest) -> JsonResponse:
    """Use the database from a coroutine."""
    return JsonResponse({"pid": os.getpid(), "backend": await sync_to_async(_backend)()})


async def slow(request: HttpRequest) -> JsonResponse:
    """Take long, and use a resource and the database in the end."""
    note("slow begins")
    await asyncio.sleep(float(request.GET["seconds"]))
    found = _describe(await lifespan.resources["a"].aget())
    found["backend"] = await sync_to_async(_backend)()
    note("slow ends")
    return JsonResponse(found)


def slow_sync(request: HttpRequest) -> JsonResponse:
    """Take long in a thread, and use a resource and the database in the end."""
    note("slow-sync begins")
    time.sleep(float(request.GET["seconds"]))
    found = _describe(lifespan.resources["a"].get())
    found["backend"] = _backend()
    note("slow-sync ends")
    return JsonResponse(found)


async def stream(request: HttpRequest) -> HttpResponseBase:
    """Send events for ever."""

    async def events() -> AsyncIterator[str]:
        try:
            while True:
                yield "data: tick\n\n"
                await asyncio.sleep(0.05)
        finally:
            note("stream ends")

    note("stream begins")
    return StreamingHttpResponse(events(), content_type="text/event-stream")


async def cleanup(request: HttpRequest) -> JsonResponse:
    """Take for ever, and some time for what is to be done in the end."""
    note("cleanup begins")
    try:
        await asyncio.sleep(3600)
    finally:
        await asyncio.sleep(0.3)
        note(f"cleaned up, open {(await lifespan.resources['a'].aget()).open}")
    raise AssertionError("never cut")


async def stubborn(request: HttpRequest) -> JsonResponse:
    """Go on although it was cancelled, once."""
    note("stubborn begins")
    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        await asyncio.sleep(3600)
    raise AssertionError("never cut")


def _describe(service: Any) -> dict[str, Any]:
    return {"pid": os.getpid(), "name": service.name, "open": service.open}


def resource(request: HttpRequest) -> JsonResponse:
    """Use a resource from a thread."""
    return JsonResponse(_describe(lifespan.resources[request.GET["name"]].get()))


async def aresource(request: HttpRequest) -> JsonResponse:
    """Use a resource from a coroutine, on whose loop it must be."""
    service = await lifespan.resources[request.GET["name"]].aget()
    assert service.loop is asyncio.get_running_loop()
    return JsonResponse(_describe(service))


def status(request: HttpRequest) -> JsonResponse:
    """Tell how the resources are."""
    return JsonResponse({"pid": os.getpid(), "status": lifespan.status()})

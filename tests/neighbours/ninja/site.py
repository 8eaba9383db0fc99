"""An API of django-ninja, synchronous and asynchronous."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

from asgiref.sync import sync_to_async
from django.db import OperationalError, connection, transaction
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.urls import path
from ninja import NinjaAPI, Schema, Status
from ninja.errors import HttpError

from tests.app.models import Item

# How many leases there were, where an operation looked.
seen: list[int] = []

api = NinjaAPI(urls_namespace="plain")
handled = NinjaAPI(urls_namespace="handled")


class Teapot(Exception):
    """What the API has an answer to."""


class Named(Schema):
    """What is to be saved."""

    name: str


def look() -> None:
    """Note how many leases there are."""
    seen.append(connection.pool.stats().used)  # type: ignore[attr-defined]


@api.exception_handler(Teapot)
def brew(request: HttpRequest, error: Any) -> HttpResponse:
    """Answer, and ask the database for it."""
    return api.create_response(request, {"items": Item.objects.count()}, status=418)


@handled.exception_handler(OperationalError)
def busy(request: HttpRequest, error: Any) -> HttpResponse:
    """Answer by itself where the database could not be asked."""
    return handled.create_response(request, {"error": "come back later"}, status=503)


@handled.exception_handler(Exception)
def sorry(request: HttpRequest, error: Any) -> HttpResponse:
    """Answer everything else alike."""
    return handled.create_response(request, {"error": "sorry"}, status=500)


@api.post("/items", response={201: Named})
def create(request: HttpRequest, item: Named) -> Any:
    with transaction.atomic():
        Item.objects.create(name=item.name)
    return Status(201, item)


@api.post("/aitems", response={201: Named})
async def acreate(request: HttpRequest, item: Named) -> Any:
    await Item.objects.acreate(name=item.name)
    return Status(201, item)


@handled.get("/items", response=list[Named])
def items(request: HttpRequest) -> Any:
    return list(Item.objects.order_by("pk"))


@api.get("/items", response=list[Named])
@handled.get("/lazy", response=list[Named])
def lazy(request: HttpRequest) -> Any:
    """Leave it to pydantic to ask, which makes another error of what comes of that."""
    return Item.objects.order_by("pk")


@api.get("/aitems")
@handled.get("/aitems")
async def aitems(request: HttpRequest) -> Any:
    return {"count": await Item.objects.acount()}


@handled.get("/behind")
def behind(request: HttpRequest) -> Any:
    """Fail with another error, since the database could not be asked."""
    try:
        return {"count": Item.objects.count()}
    except OperationalError as error:
        raise ValueError("no such thing") from error


@api.post("/refuse")
def refuse(request: HttpRequest) -> Any:
    with transaction.atomic():
        Item.objects.create(name="refused")
        look()
        raise Teapot


@api.post("/arefuse")
async def arefuse(request: HttpRequest) -> Any:
    await Item.objects.acreate(name="refused")
    raise HttpError(418, "no")


@api.get("/where")
def where(request: HttpRequest) -> Any:
    with transaction.atomic():
        Item.objects.count()
        leases = connection.pool.leases()  # type: ignore[attr-defined]
        return [lease.where for lease in leases]


@api.get("/awhere")
async def awhere(request: HttpRequest) -> Any:
    return await sync_to_async(where)(request)


@api.get("/stream")
def stream(request: HttpRequest) -> StreamingHttpResponse:
    def rows() -> Iterator[str]:
        for _ in range(3):
            yield f"{Item.objects.count()}\n"
            look()

    return StreamingHttpResponse(rows())


@api.get("/astream")
async def astream(request: HttpRequest) -> StreamingHttpResponse:
    async def rows() -> AsyncIterator[str]:
        for _ in range(3):
            yield f"{await Item.objects.acount()}\n"
            await asyncio.sleep(0)
            look()

    return StreamingHttpResponse(rows())


urlpatterns = [path("api/", api.urls), path("handled/", handled.urls)]

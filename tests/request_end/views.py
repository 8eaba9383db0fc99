"""Views that take leases, in every way in which a request can come to its end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

from django.db import OperationalError, connection, transaction
from django.http import (
    FileResponse,
    Http404,
    HttpRequest,
    HttpResponse,
    JsonResponse,
    StreamingHttpResponse,
)
from django.template import engines
from django.template.response import SimpleTemplateResponse
from django.utils.functional import SimpleLazyObject
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from django_poolkit.backends.request import current
from tests.app.models import Item

# Leases that a view takes to exhaust the pool; the fixture `pool` releases them.
hogged: list[Any] = []
# Set by a view when it holds a lease, or has come to its last line.
reached = threading.Event()
done = threading.Event()
# What a view saw, for the test to look at.
seen: list[Any] = []


def hog(pool: Any) -> None:
    """Take every connection of the pool."""
    while pool.stats().used < pool.max_size:
        hogged.append(pool.acquire(5.0))


def count(request: HttpRequest) -> HttpResponse:
    return HttpResponse(str(Item.objects.count()))


async def acount(request: HttpRequest) -> HttpResponse:
    return HttpResponse(str(await Item.objects.acount()))


def status(request: HttpRequest) -> JsonResponse:
    """Tell how the pool stands, without a lease."""
    stats = connection.pool.stats()  # type: ignore[attr-defined]
    return JsonResponse(
        {"used": stats.used, "acquired": stats.acquired, "leaks": stats.leaks, "size": stats.size}
    )


def sleep(request: HttpRequest) -> HttpResponse:
    """Run a slow statement, then another one: the whole in one thread."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        seen.append(cursor.fetchone()[0])
        reached.set()
        cursor.execute("SELECT pg_sleep(%s)", [float(request.GET.get("seconds", "0.5"))])
        cursor.execute("SELECT pg_backend_pid()")
        seen.append(cursor.fetchone()[0])
    Item.objects.create(name="slept")
    seen.append(threading.current_thread().name)
    done.set()
    return HttpResponse("slept")


async def asleep(request: HttpRequest) -> HttpResponse:
    """Take a lease, then wait for what never comes."""
    await Item.objects.acount()
    reached.set()
    await asyncio.sleep(60)
    return HttpResponse("slept")


def begin(request: HttpRequest) -> HttpResponse:
    """Leave a transaction open, by hand."""
    transaction.set_autocommit(False)
    Item.objects.create(name="never committed")
    reached.set()
    raise RuntimeError("boom")


def boom(request: HttpRequest) -> HttpResponse:
    Item.objects.count()
    raise RuntimeError("boom")


async def aboom(request: HttpRequest) -> HttpResponse:
    await Item.objects.acount()
    raise RuntimeError("boom")


def busy_thread(seconds: float) -> None:
    with connection.cursor() as cursor:
        reached.set()
        cursor.execute("SELECT pg_sleep(%s)", [seconds])
        cursor.execute("SELECT 1")
    done.set()


async def foreign_thread(request: HttpRequest) -> HttpResponse:
    """Use the database on a thread of the loop's own executor."""
    await asyncio.to_thread(busy_thread, 0.3)
    return HttpResponse("done")


async def background(request: HttpRequest) -> HttpResponse:
    """Leave a task behind that goes on with the database when the request is over."""

    scope = current()

    async def work() -> None:
        while scope is not None and not scope.over:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        await asyncio.to_thread(busy_thread, 0.1)

    seen.append(asyncio.create_task(work()))
    return HttpResponse("accepted")


# -- exhaustion


def template(request: HttpRequest) -> SimpleTemplateResponse:
    items = SimpleLazyObject(lambda: list(Item.objects.all()))
    found = engines["django"].from_string("{% for item in items %}{{ item }}{% endfor %}")
    return SimpleTemplateResponse(found, {"items": items})


class Drf(APIView):  # type: ignore[misc]
    """A view of Django REST framework."""

    def get(self, request: Request) -> Response:
        return Response({"count": Item.objects.count()})


def wrapped(request: HttpRequest) -> HttpResponse:
    try:
        Item.objects.count()
    except OperationalError as error:
        raise RuntimeError("the view's own error") from error
    return HttpResponse("not reached")


def caught(request: HttpRequest) -> HttpResponse:
    try:
        Item.objects.count()
    except OperationalError:
        return HttpResponse("from the cache")
    return HttpResponse("not reached")


def caught_404(request: HttpRequest) -> HttpResponse:
    try:
        Item.objects.count()
    except OperationalError:
        raise Http404 from None
    return HttpResponse("not reached")


def caught_404_in_context(request: HttpRequest) -> HttpResponse:
    try:
        Item.objects.count()
    except OperationalError:
        raise Http404  # noqa: B904 - the context is what this is about
    return HttpResponse("not reached")


def own_500(request: HttpRequest) -> HttpResponse:
    try:
        Item.objects.count()
    except OperationalError:
        return HttpResponse("sorry", status=500, headers={"Set-Cookie": "a=b"})
    return HttpResponse("not reached")


def write(request: HttpRequest, how: str) -> HttpResponse:
    """Write something, give the connection back, and find the pool exhausted."""
    if how == "autocommit":
        Item.objects.create(name=how)
    elif how == "atomic":
        with transaction.atomic():
            Item.objects.create(name=how)
    elif how == "rolled-back":
        try:
            with transaction.atomic():
                Item.objects.create(name=how)
                raise RuntimeError
        except RuntimeError:
            pass
    else:
        Item.objects.count()
    pool = connection.pool  # type: ignore[attr-defined]
    connection.close()
    hog(pool)
    return count(request)


# -- streaming


def stream(request: HttpRequest) -> StreamingHttpResponse:
    """Stream rows, each of its own query."""

    def rows() -> Iterator[str]:
        while True:
            yield f"{Item.objects.count()}\n"

    return StreamingHttpResponse(rows())


async def astream(request: HttpRequest) -> StreamingHttpResponse:
    async def rows() -> AsyncIterator[str]:
        while True:
            yield f"{await Item.objects.acount()}\n"
            await asyncio.sleep(0.01)

    return StreamingHttpResponse(rows())


async def ahold(request: HttpRequest) -> StreamingHttpResponse:
    """Stream out of a block that holds a lease past the ORM, which its end alone gives back."""

    async def rows() -> AsyncIterator[str]:
        async with connection.pool.alease():  # type: ignore[attr-defined]
            while True:
                yield "row\n"
                await asyncio.sleep(0.01)

    return StreamingHttpResponse(rows())


class Channel:
    """What several clients may be sent, and so is no single one's to close."""

    closed = False

    def __aiter__(self) -> Channel:
        return self

    async def __anext__(self) -> str:
        await asyncio.sleep(0.01)
        return "row\n"

    async def aclose(self) -> None:
        """Take note of it."""
        self.closed = True


channel = Channel()


async def achannel(request: HttpRequest) -> StreamingHttpResponse:
    """Stream what is no generator."""
    return StreamingHttpResponse(channel)


async def amourn(request: HttpRequest) -> StreamingHttpResponse:
    """Stream what fails as it is closed."""

    async def rows() -> AsyncIterator[str]:
        try:
            while True:
                yield "row\n"
                await asyncio.sleep(0.01)
        finally:
            raise ValueError("of the end")

    return StreamingHttpResponse(rows())


def cut(request: HttpRequest, pieces: int) -> StreamingHttpResponse:
    """Stream some pieces, then find the pool exhausted."""

    def rows() -> Iterator[str]:
        for number in range(pieces):
            yield f"piece {number}\n"
        yield f"{Item.objects.count()}\n"

    return StreamingHttpResponse(rows())


async def acut(request: HttpRequest, pieces: int) -> StreamingHttpResponse:
    async def rows() -> AsyncIterator[str]:
        for number in range(pieces):
            yield f"piece {number}\n"
        yield f"{await Item.objects.acount()}\n"

    return StreamingHttpResponse(rows())


def file(request: HttpRequest) -> FileResponse:
    Item.objects.count()
    return FileResponse(open(__file__, "rb"))  # noqa: PTH123 - closed by the response

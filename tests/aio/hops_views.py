"""Views of the tests that count threads."""

from __future__ import annotations

import io
from typing import Any

from asgiref.sync import sync_to_async
from django.http import FileResponse, HttpRequest, HttpResponse, StreamingHttpResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

from tests.app.models import Item

seen: list[Any] = []
"""What views have come to know."""


async def queries(request: HttpRequest) -> HttpResponse:
    """Write, read, count."""
    item = await Item.objects.acreate(name="a")
    await item.arefresh_from_db()
    return HttpResponse(str(await Item.objects.acount()))


async def threaded(request: HttpRequest) -> HttpResponse:
    """Ask a database by a thread of the request, whose connection somebody has to close."""
    return HttpResponse(str(await sync_to_async(Item.objects.count)()))


async def files(request: HttpRequest) -> FileResponse:
    """Answer with what has to be closed."""
    return FileResponse(io.BytesIO(b"whole"), filename="a.txt")


async def stream(request: HttpRequest) -> StreamingHttpResponse:
    """Stream what the database has."""

    async def rows() -> Any:
        async for item in Item.objects.order_by("name").aiterator(chunk_size=2):
            yield item.name

    return StreamingHttpResponse(rows())


async def session(request: HttpRequest) -> HttpResponse:
    """Count in the session, and look at the user."""
    number = await request.session.aget("n", 0) + 1
    await request.session.aset("n", number)
    user = await request.auser()
    return HttpResponse(f"{number} {user.is_authenticated}")


@csrf_exempt
async def boom(request: HttpRequest) -> HttpResponse:
    """Fail."""
    raise ValueError("boom")


urlpatterns = [
    path(f"{view.__name__}/", view) for view in (queries, threaded, files, stream, session, boom)
]

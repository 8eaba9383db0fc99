"""Views that use the database for a moment, for long, and for long without doing anything."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from contextlib import aclosing

from asgiref.sync import async_to_sync, sync_to_async
from django.db import connection, transaction
from django.http import HttpRequest, JsonResponse, StreamingHttpResponse

from django_poolkit import asyncpg_pools
from django_poolkit.pools.chance import chance


def run(statement: str, *parameters: float) -> None:
    """Run a statement."""
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)


def quick(request: HttpRequest) -> JsonResponse:
    """Use the database for a moment; tell which worker this is."""
    run("SELECT 1")
    return JsonResponse({"pid": os.getpid()})


def slow(request: HttpRequest) -> JsonResponse:
    """Run a statement that takes long."""
    run("SELECT pg_sleep(%s)", float(request.GET["seconds"]))
    return JsonResponse({"pid": os.getpid()})


async def aslow(request: HttpRequest) -> JsonResponse:
    """Run a statement that takes long, from a coroutine."""
    await sync_to_async(run)("SELECT pg_sleep(%s)", float(request.GET["seconds"]))
    return JsonResponse({"pid": os.getpid()})


def draw(request: HttpRequest) -> JsonResponse:
    """Leave something to chance, slowly enough that another worker is asked, too."""
    run("SELECT pg_sleep(0.05)")
    return JsonResponse({"pid": os.getpid(), "drawn": [chance.random() for _ in range(20)]})


def idle(request: HttpRequest) -> JsonResponse:
    """Hold a transaction open for long, and look at the database now and then."""
    until = time.monotonic() + float(request.GET["seconds"])
    with transaction.atomic():
        while time.monotonic() < until:
            run("SELECT 1")
            time.sleep(0.2)
    return JsonResponse({"pid": os.getpid()})


async def sleep(seconds: float) -> int:
    """Run a statement on a connection of asyncpg's; return its server process."""
    async with asyncpg_pools["default"].lease() as connection:
        await connection.execute("SELECT pg_sleep($1)", seconds)
        return int(connection.get_server_pid())


async def raw(request: HttpRequest) -> JsonResponse:
    """Run a statement on the loop."""
    return JsonResponse({"pid": os.getpid(), "backend": await sleep(float(request.GET["seconds"]))})


def nested(request: HttpRequest) -> JsonResponse:
    """Run statements from sync code, each on an event loop of its own."""
    backends = [async_to_sync(sleep)(0.0) for _ in range(3)]
    return JsonResponse({"pid": os.getpid(), "backends": backends})


async def rows(request: HttpRequest) -> StreamingHttpResponse:
    """Stream rows, each of which takes the server a while."""
    query = "SELECT n, pg_sleep($2) FROM generate_series(1, $1::int) n"
    given = int(request.GET["count"]), float(request.GET["seconds"])

    async def lines() -> AsyncIterator[str]:
        async with aclosing(asyncpg_pools["default"].rows(query, *given, prefetch=10)) as found:
            async for row in found:
                yield f"{row[0]}\n"

    return StreamingHttpResponse(lines(), content_type="text/plain")

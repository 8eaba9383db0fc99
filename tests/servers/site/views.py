"""Views that use the database for a moment, for long, and for long without doing anything."""

from __future__ import annotations

import os
import time

from asgiref.sync import sync_to_async
from django.db import connection, transaction
from django.http import HttpRequest, JsonResponse


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


def idle(request: HttpRequest) -> JsonResponse:
    """Hold a transaction open for long, and look at the database now and then."""
    until = time.monotonic() + float(request.GET["seconds"])
    with transaction.atomic():
        while time.monotonic() < until:
            run("SELECT 1")
            time.sleep(0.2)
    return JsonResponse({"pid": os.getpid()})

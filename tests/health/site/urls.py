"""Pages that tell about the process, and one that holds a connection."""

from __future__ import annotations

import os
import threading

from django.db import connection
from django.http import HttpRequest, JsonResponse
from django.urls import path


def process(request: HttpRequest) -> JsonResponse:
    """Tell which worker this is, and how many threads it has."""
    return JsonResponse({"pid": os.getpid(), "threads": threading.active_count()})


def hold(request: HttpRequest) -> JsonResponse:
    """Run a statement that takes long."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_sleep(%s)", [float(request.GET["seconds"])])
    return JsonResponse({"pid": os.getpid()})


urlpatterns = [path("process/", process), path("hold/", hold)]

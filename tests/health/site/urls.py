"""A page that tells which process this is, and one that holds a connection."""

from __future__ import annotations

import os

from django.db import connection
from django.http import HttpRequest, JsonResponse
from django.urls import path


def process(request: HttpRequest) -> JsonResponse:
    """Tell which worker this is."""
    return JsonResponse({"pid": os.getpid()})


def hold(request: HttpRequest) -> JsonResponse:
    """Run a statement that takes long."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_sleep(%s)", [float(request.GET["seconds"])])
    return JsonResponse({"pid": os.getpid()})


urlpatterns = [path("process/", process), path("hold/", hold)]

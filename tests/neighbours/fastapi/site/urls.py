"""Django's side of the site."""

from __future__ import annotations

import os
import time

from django.db import connection
from django.http import HttpRequest, JsonResponse
from django.urls import path

from tests.app.models import Item


def items(request: HttpRequest, number: int) -> JsonResponse:
    """Write an item, and say who did."""
    item = Item.objects.create(name=f"django {number}")
    return JsonResponse({"pid": os.getpid(), "item": item.pk})


def hold(request: HttpRequest) -> JsonResponse:
    """Hold a lease for a while."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        time.sleep(float(request.GET["seconds"]))
    return JsonResponse({"pid": os.getpid()})


urlpatterns = [path("items/<int:number>", items, name="items"), path("hold", hold, name="hold")]

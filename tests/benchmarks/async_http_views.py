"""The pages of `tests.benchmarks.async_http_site`."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.db import models
from django.http import HttpRequest, JsonResponse
from django.urls import path

from django_poolkit import client_sessions

BASES: tuple[type, ...] = (models.Model,)
MANAGER = "_default_manager"
if "django_async_backend" in settings.INSTALLED_APPS:  # which has a manager of its own
    from django_async_backend.db.models.base import AsyncModelMixin

    BASES, MANAGER = (AsyncModelMixin, models.Model), "async_objects"


class Thing(*BASES):  # type: ignore[misc]
    """What is asked for."""

    name = models.CharField(max_length=50)

    class Meta:
        app_label = "contest"


things: Any = getattr(Thing, MANAGER)


async def _get() -> str:
    thing: Thing = await things.aget(pk=1)
    return thing.name


async def none(request: HttpRequest) -> JsonResponse:
    """Answer without any query."""
    return JsonResponse({"name": "none"})


async def one(request: HttpRequest) -> JsonResponse:
    """Answer with one query."""
    return JsonResponse({"name": await _get()})


async def three(request: HttpRequest) -> JsonResponse:
    """Answer with three, one after the other."""
    return JsonResponse({"name": [await _get(), await _get(), await _get()]})


async def around(request: HttpRequest) -> JsonResponse:
    """Answer with a query before and one after a call of somebody else's API."""
    before = await _get()
    async with client_sessions["supplier"].get("") as answer:
        days = (await answer.json())["days"]
    return JsonResponse({"name": [before, await _get()], "days": days})


urlpatterns = [path("", none), path("one/", one), path("three/", three), path("around/", around)]

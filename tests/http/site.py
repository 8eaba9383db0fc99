"""A site whose views ask an upstream, for real servers: `tests.http.site:wsgi`, `:asgi`."""

from __future__ import annotations

import logging
import os
import warnings
from typing import Any

from asgiref.sync import async_to_sync
from django.conf import settings
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, JsonResponse
from django.urls import path

UPSTREAM = os.environ["UPSTREAM"]

settings.configure(
    INSTALLED_APPS=["django_poolkit"],
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["*"],
    SECRET_KEY="tests only",
    POOLKIT={"HTTP": {"api": {"limit": 4}}, "CONTROL": {"ENABLED": False}},
)
logging.captureWarnings(True)
warnings.simplefilter("always", ResourceWarning)
logging.basicConfig(level=logging.WARNING)

from django_poolkit import client_sessions  # noqa: E402 - they need settings
from django_poolkit.asgi import get_asgi_application  # noqa: E402
from django_poolkit.wsgi import get_wsgi_application  # noqa: E402


def answer(status: int) -> JsonResponse:
    session = client_sessions["api"]
    stats = session.stats()
    return JsonResponse(
        {
            "status": status,
            "pid": os.getpid(),
            "size": stats.size,
            "connects": stats.connects,
            "errors": stats.errors,
        }
    )


def in_sync(request: HttpRequest) -> JsonResponse:
    """Ask as a view without an event loop does."""
    return answer(client_sessions["api"].sync.get(UPSTREAM).status)


async def ask() -> int:
    async with client_sessions["api"].get(UPSTREAM) as response:
        await response.read()
        return response.status


async def in_async(request: ASGIRequest) -> JsonResponse:
    """Ask on the loop of the server."""
    return answer(await ask())


def nested(request: HttpRequest) -> JsonResponse:
    """Ask on the loop of the server, or on one of this call where the server has none."""
    return answer(async_to_sync(ask)())


def look(request: HttpRequest) -> JsonResponse:
    """Ask nothing."""
    return answer(200)


urlpatterns: list[Any] = [
    path("sync/", in_sync),
    path("async/", in_async),
    path("nested/", nested),
    path("look/", look),
]

wsgi = get_wsgi_application()
asgi = get_asgi_application()
if os.environ.get("BEFORE_FORK"):
    assert client_sessions["api"].sync.get(UPSTREAM).status == 200

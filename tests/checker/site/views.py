"""The pages, each as a function and as a coroutine function."""

from __future__ import annotations

import json
from typing import Any

from asgiref.sync import sync_to_async
from django.contrib.auth import authenticate, login
from django.db import transaction
from django.http import HttpRequest, HttpResponse, JsonResponse

from django_poolkit.routing import acarry, carry
from tests.checker.site import actions, queue
from tests.checker.site.telling import told


def enter(request: HttpRequest) -> HttpResponse:
    """Log a visitor in."""
    asked = json.loads(request.body)
    user = authenticate(request, username=asked["user"], password="secret")
    assert user is not None
    login(request, user)
    return JsonResponse({})


def work(request: HttpRequest) -> HttpResponse:
    """Write, read, or both, as the body or the query says."""
    asked = _asked(request)
    answer = _done(request, asked)
    if "job" in asked:
        token = carry()
        answer["told"] = told(token)
        queue.put(asked["job"], token)
    return JsonResponse(answer)


async def awork(request: HttpRequest) -> HttpResponse:
    """Do the same in a coroutine, whose database work is done on a thread."""
    asked = _asked(request)
    if asked.get("session"):
        await request.auser()
    answer = await sync_to_async(_done)(request, {**asked, "session": False})
    if "job" in asked:
        token = await acarry()
        answer["told"] = told(token)
        queue.put(asked["job"], token)
    return JsonResponse(answer)


def _asked(request: HttpRequest) -> dict[str, Any]:
    text = request.body if request.method == "POST" else request.GET["asked"]
    asked: dict[str, Any] = json.loads(text)
    return asked


def _done(request: HttpRequest, asked: dict[str, Any]) -> dict[str, Any]:
    if asked.get("session"):
        assert request.user.is_authenticated
    answer: dict[str, Any] = {}
    if (place := asked.get("append")) is not None:
        actions.append(place[0], place[1], together=place[2])
    if (target := asked.get("bump")) is not None:
        answer["value"] = actions.bump(target)
    if asked.get("together"):
        with transaction.atomic():
            answer["reads"] = actions.look(asked["look"])
    elif "look" in asked:
        answer["reads"] = actions.look(asked["look"])
    return answer

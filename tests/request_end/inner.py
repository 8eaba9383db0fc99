"""Middleware that stands inside of ours, or outside."""

from __future__ import annotations

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse

from django_poolkit.pools.errors import PoolTimeout
from tests.app.models import Item

GetResponse = Callable[[HttpRequest], HttpResponse]


def queries(get_response: GetResponse) -> GetResponse:
    """Query before the view."""

    def middleware(request: HttpRequest) -> HttpResponse:
        Item.objects.count()
        return get_response(request)

    return middleware


def writes_after(get_response: GetResponse) -> GetResponse:
    """Write something on the way out, when the pool has a connection again."""
    from tests.request_end import views

    def middleware(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        while views.hogged:
            views.hogged.pop().release()
        Item.objects.create(name=f"status {response.status_code}")
        return response

    return middleware


def raises_like_a_pool(get_response: GetResponse) -> GetResponse:
    """Fail as a pool does that no scope knows of."""

    def middleware(request: HttpRequest) -> HttpResponse:
        raise PoolTimeout("no connection", pool="another")

    return middleware

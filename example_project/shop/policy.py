"""A Content-Security-Policy for the admin: files of the site alone, and nothing inline."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import cast

from asgiref.sync import iscoroutinefunction
from django.http import HttpRequest, HttpResponse
from django.utils.decorators import sync_and_async_middleware

STRICT = "default-src 'self'; frame-ancestors 'none'; form-action 'self'; base-uri 'none'"

Serve = Callable[[HttpRequest], HttpResponse]
AsyncServe = Callable[[HttpRequest], Awaitable[HttpResponse]]


@sync_and_async_middleware
def strict_policy(get_response: Serve | AsyncServe) -> Serve | AsyncServe:
    """Send it with every answer below `admin/`. (The shop's own pages have inline styles.)"""

    def with_policy(request: HttpRequest, response: HttpResponse) -> HttpResponse:
        if request.path.startswith("/admin/"):
            response.headers["Content-Security-Policy"] = STRICT
        return response

    if iscoroutinefunction(get_response):

        async def serve_async(request: HttpRequest) -> HttpResponse:
            return with_policy(request, await cast(AsyncServe, get_response)(request))

        return serve_async

    def serve(request: HttpRequest) -> HttpResponse:
        return with_policy(request, cast(Serve, get_response)(request))

    return serve

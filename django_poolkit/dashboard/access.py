"""Who may see the page, and who may steer by it: asked quickly, then all leases are given back.

Who asks is known to the databases alone. When their pool is exhausted, the page does not queue up
behind the users for long, but says so; and while it asks the other processes it holds no lease.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db import InterfaceError, OperationalError, connections
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.urls import NoReverseMatch, reverse

from django_poolkit.backends.postgresql.base import PooledDatabaseWrapperMixin
from django_poolkit.pools.deadline import deadline

logger = logging.getLogger("django_poolkit.dashboard")

VIEW: Final = "poolkit_dashboard.view_pools"
STEER: Final = "poolkit_dashboard.steer_pools"
PATIENCE = 2.0
"""Seconds in which it has to be known who asks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Visitor:
    """Somebody who may see the page."""

    pk: Any
    may_steer: bool
    context: dict[str, Any]
    """What the admin's templates want to know."""


def admit(request: HttpRequest, *, page: bool = True) -> Visitor | HttpResponse:
    """Return who asks, or what to answer instead. Holds no lease when it returns.

    `page` is False where no page of the admin's is made. Raises PermissionDenied for those who
    are logged in and may not see it.
    """
    try:
        with deadline(PATIENCE):
            found = _identify(request, page=page)
    except (OperationalError, InterfaceError) as error:
        logger.warning(
            "event=visitor_unknown path=%s error=%s", quote(request.path), type(error).__name__
        )
        return _unavailable(request)
    finally:
        give_back()
    return found


def _identify(request: HttpRequest, *, page: bool) -> Visitor | HttpResponse:
    # Here, so that a system check can say that the app is missing.
    from django.contrib.auth.views import redirect_to_login

    user: Any = request.user
    if not user.is_authenticated:
        return redirect_to_login(request.get_full_path(), _login_page())
    if not admin.site.has_permission(request) or not user.has_perm(VIEW):
        raise PermissionDenied
    context = admin.site.each_context(request) if page else {}
    return Visitor(pk=user.pk, may_steer=user.has_perm(STEER), context=context)


def _login_page() -> str | None:
    try:
        return reverse("admin:login")
    except NoReverseMatch:  # no site of the admin's is routed: LOGIN_URL has to do
        return None


def give_back() -> None:
    """End the leases of this thread, but for those of blocks that are open."""
    for connection in connections.all(initialized_only=True):
        if isinstance(connection, PooledDatabaseWrapperMixin) and not connection.in_atomic_block:
            connection.close()


def wants_json(request: HttpRequest) -> bool:
    """Tell whether a program asks."""
    return request.get_preferred_type(["text/html", "application/json"]) == "application/json"


def _unavailable(request: HttpRequest) -> HttpResponse:
    response: HttpResponse
    if wants_json(request):
        response = JsonResponse({"version": 1, "error": "visitor_unknown"}, status=503)
    else:
        response = render(request, "poolkit_dashboard/unavailable.html", status=503)
    response.headers["Retry-After"] = "2"
    response.headers["Cache-Control"] = "no-store"
    return response

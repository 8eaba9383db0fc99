"""The view behind `django_poolkit.health.urls`."""

from __future__ import annotations

import logging
from typing import Any

from asgiref.sync import sync_to_async
from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, HttpResponse
from django.views.decorators.csrf import csrf_exempt

from django_poolkit.health import areport
from django_poolkit.health.access import may_see_details
from django_poolkit.health.front import aanswer, asked_by, config
from django_poolkit.health.response import as_response

logger = logging.getLogger("django_poolkit.health")

# Whose permission is asked for lies in the databases. Where these do not answer, or have no
# connection to spare, it is not asked: a probe would wait where the users wait.
_WHERE_USERS_ARE = "db"


@csrf_exempt
@login_not_required
async def health(request: HttpRequest, group: str = "") -> HttpResponse:
    """Answer for a group. Without a thread under ASGI; under WSGI it blocks as long as it takes."""
    asked = asked_by(request.META, group)
    details = may_see_details(asked, config()) or await _is_permitted(request)
    return as_response(await aanswer(asked, details=details))


async def _is_permitted(request: HttpRequest) -> bool:
    # Nobody is logged in without a cookie; and behind no middleware of auth's there is no user.
    permission = config().permission
    if permission is None or not request.COOKIES or not hasattr(request, "user"):
        return False
    if (await areport(_WHERE_USERS_ARE)).status != "pass":
        return False
    try:
        return bool(await sync_to_async(_has_permission)(request, permission))
    except Exception as error:
        logger.warning("event=permission_unknown error=%s", type(error).__name__)
        return False


def _has_permission(request: Any, permission: str) -> bool:
    return bool(request.user.has_perm(permission))

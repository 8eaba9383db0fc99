"""Whose choice an alias was: the router's, or of who wrote `using()`. Found out when it matters.

Django's cursor knows its connection alone. So who asks looks at the stack, from a statement that
has just failed up to the queryset that it is of.
"""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any, Final

from django.db import router
from django.db.models import QuerySet

from django_poolkit.routing.router import ReadWriteRouter

# Where Django runs what a queryset means: module and function. What `raw()` means runs elsewhere,
# and does not tell who has chosen its alias.
_RUNS: Final = ("django.db.models.sql.compiler", "execute_sql")
# Frames from there to a method of the queryset.
_BETWEEN: Final = 12


def is_routers_choice(asker: object) -> bool:
    """Return whether what runs on Django's cursor is where our router has sent it.

    The asker is that cursor; or the database wrapper, which is about to open one.

    False where that cannot be told, as for a cursor that somebody has opened by hand.
    """
    queryset = _queryset_of(asker)
    if queryset is None or queryset._db is not None or queryset._for_write:
        return False
    for each in router.routers:
        if isinstance(each, ReadWriteRouter):
            return True
        choose = getattr(each, "db_for_read", None)
        if choose is not None and choose(queryset.model, **queryset._hints):
            return False
    return False


def _queryset_of(asker: object) -> Any:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not _runs(frame, asker):
        frame = frame.f_back
    for _ in range(_BETWEEN):
        if frame is None:
            return None
        for name in ("queryset", "self"):
            if isinstance(found := frame.f_locals.get(name), QuerySet):
                return found
        frame = frame.f_back
    return None


def _runs(frame: FrameType, asker: object) -> bool:
    """Return whether a frame is that of Django's which runs a query for the asker."""
    if (frame.f_globals.get("__name__"), frame.f_code.co_name) != _RUNS:
        return False
    known = frame.f_locals
    if "cursor" in known:
        return known["cursor"] is asker
    return getattr(known["self"], "connection", None) is asker

"""Whose statement is this: the ORM's own, or one that a project wrote?

Told from the caller: the first frame above Django's cursor wrappers. A statement of the ORM
leaves no session state behind, which is more than can be said of a text nobody knows.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Final

# Between a statement and its author: cursors, their wrappers, and those who watch them.
_PASSED: Final = (
    "django.db.backends.utils", "django.db.backends.base.schema",
    "django.db.backends.postgresql.", "django.utils.asyncio",
    "django_poolkit.", "psycopg", "contextlib", "debug_toolbar.", "sentry_sdk.",
    "opentelemetry.", "django_prometheus.", "ddtrace.", "elasticapm.", "newrelic.",
)  # fmt: skip
# Django's, but the text is the project's: Manager.raw() and the RunSQL operation.
_QUOTING: Final = ("django.db.models.sql.query", "django.db.migrations.operations.special")
_DEPTH: Final = 24
# Those who look at a connection, and change nothing about it that lasts.
_HARMLESS: Final = (
    "django.", "django_poolkit.", "psycopg.", "psycopg_c.", "psycopg_binary.", "debug_toolbar.",
    "sentry_sdk.", "opentelemetry.", "django_prometheus.", "ddtrace.", "elasticapm.", "newrelic.",
)  # fmt: skip


def outsider(trusted: tuple[str, ...] = ()) -> Callable[[FrameType], bool]:
    """Return a function that tells of a frame that it is neither Django's nor a trusted one's.

    `trusted` names packages that leave a connection as they find it.
    """
    own = (*_HARMLESS, *(f"{name}." for name in trusted))
    verdicts: dict[str, bool] = dict.fromkeys(trusted, False)

    def outside(frame: FrameType) -> bool:
        # Who asks through a proxy or a wrapper asks one frame further out.
        while frame.f_code.co_name == "__getattr__" and frame.f_back is not None:
            frame = frame.f_back
        name = frame.f_globals.get("__name__", "")
        verdict = verdicts.get(name)
        if verdict is None:
            verdict = verdicts[name] = not name.startswith(own)
        return verdict

    return outside


def foreign_statement(trusted: tuple[str, ...] = ()) -> Callable[[], bool]:
    """Return a function that tells, called as a statement begins, if it is not the ORM's.

    `trusted` names packages whose statements count as the ORM's own.
    """
    own = ("django.", *(f"{name}." for name in trusted))
    exact = frozenset(trusted)

    def foreign() -> bool:
        frame = sys._getframe(2)
        for _ in range(_DEPTH):
            name = frame.f_globals.get("__name__", "")
            if not name.startswith(_PASSED):
                if name in _QUOTING:
                    return True
                return not (name.startswith(own) or name in exact)
            if frame.f_back is None:
                return True
            frame = frame.f_back
        return True

    return foreign

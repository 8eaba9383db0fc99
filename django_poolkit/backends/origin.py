"""Whose statement is this: the ORM's own, or one that a project wrote?

Told from the caller: the first frame above Django's cursor wrappers. A statement of the ORM
leaves no session state behind, which is more than can be said of a text nobody knows.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Final

from django.db.backends.utils import CursorWrapper

from django_poolkit.pools.observe import line_of

# Put a set_config() that ends with the transaction before other people's statements.
_PREFIXING: Final = ("pgactivity.runtime", "pghistory.runtime", "pgtrigger.runtime")
# Between a statement and its author: cursors, their wrappers, and those who watch them.
_PASSED: Final = (
    "django.db.backends.utils", "django.db.backends.base.schema",
    "django.db.backends.postgresql.", "django.utils.asyncio",
    "django_poolkit.", "psycopg", "contextlib", "debug_toolbar.", "sentry_sdk.",
    "opentelemetry.", "django_prometheus.", "ddtrace.", "elasticapm.", "newrelic.",
    *_PREFIXING,
)  # fmt: skip
# Django's, but the text is the project's: Manager.raw() and the RunSQL operation.
_QUOTING: Final = ("django.db.models.sql.query", "django.db.migrations.operations.special")
_DEPTH: Final = 24
# Through which a request or a command enters Django: what is further out is a server.
_ENTRIES: Final = ("django.core.handlers.", "django.core.management.")
# Those who look at a connection, and change nothing about it that lasts.
_HARMLESS: Final = (
    "django.", "django_poolkit.", "psycopg.", "psycopg_c.", "psycopg_binary.", "debug_toolbar.",
    "sentry_sdk.", "opentelemetry.", "django_prometheus.", "ddtrace.", "elasticapm.", "newrelic.",
    # These ask for the transaction's status and the server's version. By module: `pghistory.core`
    # takes the connection to change it, and could do nothing with the None of who only looks.
    *_PREFIXING, "pgactivity.core", "pgactivity.utils", "pghistory.utils", "pglock.core",
    "pglock.utils", "pgtrigger.utils",
)  # fmt: skip

# Celery's receivers of the begin and the end of a task (celery 5.7, fixups/django.py). Where its
# workers are forked they close each pool, so that each task would connect anew (celery #10554).
_FIXUP: Final = "celery.fixups.django"
_AROUND_TASKS: Final = frozenset({"on_task_prerun", "on_task_postrun"})


def between_tasks() -> bool:
    """Return whether the caller's caller is Celery, that ends what a task has left."""
    frame = sys._getframe(1).f_back
    while frame is not None and frame.f_globals.get("__name__") == _FIXUP:
        if frame.f_code.co_name in _AROUND_TASKS:
            return True
        frame = frame.f_back
    return False


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


# Where Django's cursor calls psycopg's: from there down to `foreign()` there are psycopg, a cursor
# of ours, and who takes note.
_CURSOR: Final = CursorWrapper._execute.__code__  # type: ignore[attr-defined]
_PSYCOPG: Final = "psycopg.cursor"
_BELOW_CURSOR: Final = 8


def _by_django() -> FrameType | None:
    # Nobody else's frame fits in between, so half of the way need not be walked. Of a cursor of the
    # project's that takes a shorter way, as a COPY's, it would be the frame called by Django's.
    try:
        called = sys._getframe(_BELOW_CURSOR - 1)
    except ValueError:
        return None
    frame = called.f_back
    if frame is None or frame.f_code is not _CURSOR:
        return None
    return frame if called.f_globals.get("__name__") == _PSYCOPG else None


def foreign_statement(trusted: tuple[str, ...] = ()) -> Callable[[], bool]:
    """Return a function that tells, called as a statement begins, if it is not the ORM's.

    `trusted` names packages whose statements count as the ORM's own.
    """
    own = ("django.", *(f"{name}." for name in trusted))
    verdicts: dict[str, bool | None] = {}

    def judge(name: str) -> bool | None:
        # None of those that are passed by.
        if name.startswith(_PASSED):
            return None
        return name in _QUOTING or not (name.startswith(own) or name in trusted)

    def foreign() -> bool:
        frame: FrameType | None = _by_django() or sys._getframe(2)
        for _ in range(_DEPTH):
            if frame is None:
                break
            name = frame.f_globals.get("__name__", "")
            try:
                verdict = verdicts[name]
            except KeyError:
                verdict = verdicts[name] = judge(name)
            if verdict is not None:
                return verdict
            frame = frame.f_back
        return True

    return foreign


def call_site(trusted: tuple[str, ...] = ()) -> Callable[[FrameType], str]:
    """Return a function that gives the line of a project's code above a frame, `module:line`.

    Where there is none, as in a view of Django's, it is the line above Django's database code.
    `trusted` names packages that are passed by as Django is.
    """
    passed = (*_HARMLESS, *_PASSED, "asgiref.")
    as_django = ("django.", *(f"{name}." for name in trusted))
    kinds: dict[str, str] = dict.fromkeys(trusted, "django")

    def kind_of(name: str) -> str:
        if name.startswith(_ENTRIES):
            return "entry"
        if name.startswith(("django.db.", "django.utils.")):
            return "database"
        if name.startswith(as_django):
            return "django"
        if name.startswith(passed) or name.partition(".")[0] in sys.stdlib_module_names:
            return "database"
        return "user"

    def site(frame: FrameType) -> str:
        here: FrameType | None = frame
        best: FrameType | None = None
        while here is not None:
            name = here.f_globals.get("__name__", "")
            kind = kinds.get(name) or kinds.setdefault(name, kind_of(name))
            if kind == "user":
                return line_of(here)
            if kind == "entry":
                break
            if kind == "django" and best is None:
                best = here
            here = here.f_back
        return line_of(best or here or frame)

    return site

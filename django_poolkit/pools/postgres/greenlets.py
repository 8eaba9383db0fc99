"""Whether one greenlet that waits for a connection, or for its server, lets the others run."""

from __future__ import annotations

from typing import Final

from psycopg import waiting

from django_poolkit.pools import patched

_HOW: Final = (
    "Start the worker by `celery -A … worker --pool gevent`, which does so first of all; the "
    "setting worker_pool alone does not, and neither does a program of your own, unless it calls "
    "gevent.monkey.patch_all() before all its imports"
)


def why_greenlets_block(kind: str) -> str | None:
    """Return why greenlets of a kind cannot wait side by side, None where they can."""
    if kind != "gevent":
        return (
            f"{kind} is not supported: connections would be shared by greenlets, and a wait would "
            "stop all of them. Use gevent, threads or prefork"
        )
    if not (patched.is_patched("threading") and patched.is_patched("select")):
        return (
            "gevent has not replaced what waits in the standard library, so all tasks would share "
            f"one connection, and a wait would stop all of them. {_HOW}"
        )
    if not patched.PATCHED_BEFORE or waiting.wait is getattr(waiting, "wait_c", None):
        return (
            "gevent has replaced what waits in the standard library when psycopg or the pools had "
            f"been imported, so a query would stop all tasks. {_HOW}"
        )
    return None

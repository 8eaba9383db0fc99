"""Celery: a task sees what had been written where it was sent, and has a scope of its own.

Its name is that of the share of a pool that its connections count against.

    from django_poolkit.contrib import celery as poolkit_celery

    poolkit_celery.install()

in the module of the app, which those that send tasks load as well as the workers do.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, Final

from celery import signals

from django_poolkit.pools.share import share
from django_poolkit.routing.jobs import carry, scope

HEADER: Final = "poolkit_floor"
"""The header of a message that has the token."""

_BLOCK: Final = "_poolkit_scope"


def install() -> None:
    """Connect with Celery's signals. May be called again."""
    uid = "django_poolkit.routing"
    signals.before_task_publish.connect(_send, dispatch_uid=uid)
    signals.task_prerun.connect(_begin, dispatch_uid=uid)
    signals.task_postrun.connect(_end, dispatch_uid=uid)


def _send(headers: Any = None, **kwargs: Any) -> None:
    # Celery sends the dict as it comes back. A task that is tried again has a token already.
    if isinstance(headers, dict) and (token := carry()) is not None:
        headers[HEADER] = token


def _begin(task: Any = None, **kwargs: Any) -> None:
    request = task.request
    token = getattr(request, HEADER, None)
    # With the execution: one task may run several times at once.
    block = ExitStack()
    block.enter_context(share(task.name))
    block.enter_context(scope(token if isinstance(token, str) else None))
    setattr(request, _BLOCK, block)


def _end(task: Any = None, **kwargs: Any) -> None:
    request = task.request
    block = getattr(request, _BLOCK, None)
    if block is not None:
        delattr(request, _BLOCK)
        block.close()

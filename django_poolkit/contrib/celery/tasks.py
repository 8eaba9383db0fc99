"""A task: its leases, which end with it; its name; and what it must see."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, Final

from django_poolkit.backends import request_end
from django_poolkit.backends.request import RequestScope, entered
from django_poolkit.pools.share import share
from django_poolkit.routing import scopes
from django_poolkit.routing.jobs import carry, scope

HEADER: Final = "poolkit_floor"
"""The header of a message that has the token."""

_BLOCK: Final = "_poolkit_scope"


class TaskScope(RequestScope):
    """What one task did with its databases: all that it leased ends with it, as with a request."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        super().__init__(owned=True)
        self.name = name

    def where(self) -> str:
        """Return the name of the task, as `celery shop.tasks.report`."""
        return f"celery {self.name}"

    def view(self) -> str:
        """Return the name of the task, which is that of its share of a pool."""
        return self.name

    def finish(self) -> None:
        """End what it leased. Does not raise."""
        scopes.end_of(self)
        request_end.finish(self)


def send(headers: Any = None, **kwargs: Any) -> None:
    """Give a message that is about to be sent a token of what has been written here."""
    # Celery sends the dict as it comes back. A task that is tried again has a token already.
    if isinstance(headers, dict) and (token := carry()) is not None:
        headers[HEADER] = token


def begin(task: Any = None, **kwargs: Any) -> None:
    """Open what a task runs in."""
    request = task.request
    token = getattr(request, HEADER, None)
    with ExitStack() as block:
        # One that is called where it would be sent is a part of who calls it.
        if not request.is_eager:
            here = TaskScope(task.name)
            block.callback(here.finish)
            block.enter_context(entered(here))
        block.enter_context(share(task.name))
        block.enter_context(scope(token if isinstance(token, str) else None))
        # With the execution: one task may run several times at once.
        setattr(request, _BLOCK, block.pop_all())


def end(task: Any = None, **kwargs: Any) -> None:
    """Close it, whatever has become of the task."""
    request = task.request
    block = getattr(request, _BLOCK, None)
    if block is not None:
        delattr(request, _BLOCK)
        block.close()

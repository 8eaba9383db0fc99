"""django.tasks: a task sees what had been written where it was enqueued.

Django's tasks have arguments and nothing beside them, so the token goes with these, under a name
that is taken away before the task's function is called. A backend of a project's own:

    class Backend(CarriesFloors, DatabaseBackend):
        pass

Needs Django 6.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from django.db import connections
from django.tasks import Task
from django.tasks.backends.base import BaseTaskBackend

from django_poolkit.pools.share import share
from django_poolkit.routing.jobs import acarry, carry, scope

KEYWORD: Final = "poolkit_floor"
"""The keyword argument that has the token."""

if TYPE_CHECKING:
    _Task = Task[..., Any]
else:
    _Task = Task


class CarryingTask(_Task):
    """A task that runs in a scope of its own, which begins with what it was enqueued with.

    Its path, as `shop.tasks.report`, names the share of a pool that its connections count against,
    and tells `poolstatus` what they are for. A connection that breaks under it is given up, so that
    a worker which goes on with it, in session mode, can store how the task ended.
    """

    __slots__ = ()

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """Run the task's function."""
        with share(self.module_path), scope(kwargs.pop(KEYWORD, None)):
            try:
                return super().call(*args, **kwargs)
            except BaseException:
                _give_up_broken()
                raise

    async def acall(self, *args: Any, **kwargs: Any) -> Any:
        """Run the task's function."""
        with share(self.module_path):
            async with scope(kwargs.pop(KEYWORD, None)):
                return await super().acall(*args, **kwargs)


class CarriesFloors(BaseTaskBackend):
    """For a backend of tasks, in front of the class that it is.

    One that has a `task_class` of its own needs one that derives from `CarryingTask` as well.
    """

    task_class = CarryingTask

    def enqueue(self, task: Any, args: Any, kwargs: Any) -> Any:
        """Enqueue a task with a token. Blocks for 50 ms longer than the backend, at most."""
        if isinstance(task, CarryingTask) and KEYWORD not in kwargs:
            kwargs = _with(carry(), kwargs)
        return super().enqueue(task, args, kwargs)

    async def aenqueue(self, task: Any, args: Any, kwargs: Any) -> Any:
        """Do the same, without blocking the loop."""
        if isinstance(task, CarryingTask) and KEYWORD not in kwargs:
            kwargs = _with(await acarry(), kwargs)
        return await super().aenqueue(task, args, kwargs)


def _give_up_broken() -> None:
    # Django looks at a connection again when its worker ends a round, which comes too late.
    for wrapper in connections.all(initialized_only=True):
        raw: Any = wrapper.connection
        if raw is not None and getattr(raw, "closed", False) and not wrapper.in_atomic_block:
            wrapper.close()


def _with(token: str | None, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return dict(kwargs) if token is None else {**kwargs, KEYWORD: token}

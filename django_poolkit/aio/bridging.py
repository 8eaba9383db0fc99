"""`bridged`: makes a function of synchronous ORM code one that a task awaits, without a thread."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import wraps
from inspect import iscoroutinefunction
from typing import Any, ParamSpec, TypeVar

from django_poolkit.aio.calls import Call
from django_poolkit.aio.needed import install

P = ParamSpec("P")
T = TypeVar("T")


def bridged(function: Callable[P, T]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Return a coroutine function that runs `function` on the event loop, and blocks it nowhere.

    The function, and all that it calls, may use the whole synchronous ORM; where that waits for
    the database, only the awaiting task does. What else blocks in it blocks the loop. It shares
    the context variables of the task, and is cancelled with it: a statement that runs is cancelled
    on the server.

    Each call has database connections of its own, and gives them back at its end. Within
    `aatomic()` or `apinned()` it uses those of the block, and so it does where a middleware has
    put a tenant on the request's connection, or pinned that: calls then take turns.

    Works with and without `POOLKIT["ASYNC_ORM"]`: the first function that is made so gives four
    names of Django and asgiref their meaning for the bridge (`aio/needed.py`). Make it where a
    module is imported, as a decorator does. Aliases without a pool of django_poolkit refuse to
    connect in it. Raises TypeError for a coroutine function.
    """
    if iscoroutinefunction(function):
        raise TypeError(
            f"bridged() takes a synchronous function, and {function.__qualname__} is a coroutine "
            "function: await that itself"
        )
    install()

    @wraps(function)
    async def call(*args: P.args, **kwargs: P.kwargs) -> T:
        return await Call().run(function, *args, **kwargs)

    return call

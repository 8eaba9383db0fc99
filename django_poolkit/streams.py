"""Asynchronous generators that end with the request they were made in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from functools import wraps
from inspect import isasyncgenfunction
from typing import Any, ParamSpec, TypeVar
from weakref import WeakValueDictionary

from django_poolkit.backends import request
from django_poolkit.backends.request import RequestScope

__all__ = ["ends_with_request"]

P = ParamSpec("P")
T = TypeVar("T")


def ends_with_request(
    function: Callable[P, AsyncGenerator[T, None]],
) -> Callable[P, AsyncGenerator[T, None]]:
    """Have the generators of a function closed, at the latest when their request is over.

    Without it, one whose client has gone may hold its transaction or its connection until the
    garbage collector comes by, where a framework leaves that to it. Needs a `Poolkit` to serve
    the request; without, and outside of requests, it changes nothing. Raises TypeError for what is
    no asynchronous generator function.
    """
    if not isasyncgenfunction(function):
        raise TypeError(
            "ends_with_request() takes an asynchronous generator function, `async def` with a "
            f"`yield`, and not {function!r}"
        )

    @wraps(function)
    def begin(*args: P.args, **kwargs: P.kwargs) -> AsyncGenerator[T, None]:
        stream = function(*args, **kwargs)
        scope = request.current()
        if scope is not None and not scope.over:
            # Weakly: a websocket that lasts for hours may make many.
            if scope.streams is None:
                scope.streams = WeakValueDictionary()
            scope.streams[id(stream)] = stream
        return stream

    return begin


async def close_all(scope: RequestScope) -> None:
    """Close the streams of a request, the last one first, as with the blocks of a function."""
    for stream in reversed(list((scope.streams or {}).values())):
        await close(stream)


async def close(stream: Any) -> None:
    """Close a stream. What it raises is told to the loop, as the garbage collector has it."""
    try:
        await stream.aclose()
    except Exception as error:
        asyncio.get_running_loop().call_exception_handler(
            {
                "message": f"an error occurred as {stream!r} was closed, whose client has gone",
                "exception": error,
                "asyncgen": stream,
            }
        )

"""The lifespan protocol of ASGI, and the same as an async context manager."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterable, Mapping, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any, Final

from django.core.handlers.asgi import ASGIHandler

from django_poolkit.conf.lifespan import lifespan_config
from django_poolkit.lifespan import course, inner
from django_poolkit.lifespan.base import Resource, ResourceError, said_of, stack_of
from django_poolkit.lifespan.builtin import builtin
from django_poolkit.lifespan.declared import declared
from django_poolkit.lifespan.span import Span

logger = logging.getLogger("django_poolkit.lifespan")

CHANGES: Final = "django_poolkit.lifespan"
"""Where a lifespan scope may hold changes to the settings, by the names of `LifespanConfig`."""


async def serve(app: inner.Application, scope: Any, receive: Any, send: Any) -> None:
    """Answer the lifespan protocol for an application, and pass it on to that.

    The application is started after our resources, and stopped before them.
    """
    if course.runs_here():  # one of ours is around us
        await app(scope, receive, send)
        return
    await receive()
    state = scope.setdefault("state", {})
    try:
        span = await _begin(state, _of_the_application(app, scope), scope.get(CHANGES, {}))
    except ResourceError as error:
        await send({"type": "lifespan.startup.failed", "message": str(error)})
        return
    try:
        await send({"type": "lifespan.startup.complete"})
        await receive()
    except GeneratorExit:  # the loop was closed: nothing can be awaited any more
        raise
    except BaseException:
        await course.end(span)
        raise
    await course.end(span)
    await send({"type": "lifespan.shutdown.complete"})


@asynccontextmanager
async def lifespan(app: object = None) -> AsyncIterator[dict[str, Any]]:
    """Keep the resources open for the length of an `async with` block; yields them by name.

    Fits as the `lifespan=` of Starlette and FastAPI. Within a `Poolkit`, which has opened them
    already, it does nothing more.

    Raises ResourceError where a required one cannot be opened.
    """
    if (span := course.current()) is not None and course.runs_here():
        yield span.values()
        return
    span = await _begin({})
    try:
        yield span.values()
    except GeneratorExit:
        raise
    except BaseException:
        await course.end(span)
        raise
    await course.end(span)


def _of_the_application(app: inner.Application, scope: Any) -> list[Resource[Any]]:
    if isinstance(app, ASGIHandler):  # Django's knows no lifespan
        return []
    return [Resource(name=inner.NAME, enter=partial(inner.running, app, scope))]


async def _begin(
    state: MutableMapping[str, Any],
    more: Iterable[Resource[Any]] = (),
    changes: Mapping[str, Any] = MappingProxyType({}),
) -> Span:
    """Open everything. Raises nothing but ResourceError, with a text for all eyes."""
    try:
        config = replace(lifespan_config(), **changes)
        return await course.begin(config, [*builtin(config), *declared(), *more], state)
    except ResourceError as error:
        stack = stack_of(error.__cause__) if error.__cause__ else ""
        logger.error("event=start_failed error=%s\n%s", error, stack)
        raise ResourceError(str(error)) from None
    except Exception as error:
        said = said_of(error)
        logger.error("event=start_failed error=%s\n%s", said, stack_of(error))
        raise ResourceError(f"the resources cannot be told from the settings: {said}") from None

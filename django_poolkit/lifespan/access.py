"""What a resource was opened as, for whoever asks: from the lifespan, or opened by the question.

Where a server sends no lifespan (daphne, WSGI, commands, tests), each event loop opens a resource
when it is first asked for it, and closes it as it ends; threads without a loop share one that
runs in the background until the process ends.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from dataclasses import replace
from typing import Any, Final, TypeVar

from django_poolkit.conf.lifespan import lifespan_config
from django_poolkit.http.background import NoThread, background
from django_poolkit.lifespan import course
from django_poolkit.lifespan.base import Resource, ResourceError
from django_poolkit.lifespan.span import Span
from django_poolkit.pools.endings import at_end
from django_poolkit.pools.errors import PoolClosed, WrongLoop
from django_poolkit.pools.forks import in_child

logger = logging.getLogger("django_poolkit.lifespan")

T = TypeVar("T")

# Seconds beyond the budgets, after which the end of a process waits no more for a thread.
_SLACK: Final = 2.0


def get(resource: Resource[T]) -> T:
    """Return what a resource is open as. Outside of coroutines it may block, to open it.

    Raises ResourceError where it is not ready or cannot be opened, PoolClosed after the end,
    WrongLoop on an event loop that is not the lifespan's.
    """
    span, loop = course.current(), _running_loop()
    if span is None and loop is None:
        try:
            return background.run(lambda: aget(resource))
        except NoThread:
            raise ResourceError(
                f"resource {resource.name!r} cannot be opened: outside of coroutines it needs a "
                "thread of its own for its event loop, and gevent has made threads greenlets: use "
                "another kind of worker"
            ) from None
    if span is None:
        span = _spans.get(loop) if loop is not None else None
        if span is None or span.keeper(resource.name) is None:
            raise ResourceError(
                f"resource {resource.name!r} is not open on this event loop: in a coroutine, open "
                "it by `await ….aget()`"
            )
    return _value(span, resource)


async def aget(resource: Resource[T]) -> T:
    """Return what a resource is open as on the running loop; open it if there is no lifespan.

    Raises as `get()` does.
    """
    span = course.current()
    if span is None:
        span = await _opened(resource)
    return _value(span, resource)


def _value(span: Span, resource: Resource[T]) -> T:
    loop, keeper, name = _running_loop(), span.keeper(resource.name), resource.name
    if loop is not None and loop is not span.loop:
        raise WrongLoop(f"resource {name!r} belongs to another event loop, the server's")
    if keeper is None and span.closed:
        raise PoolClosed(f"resource {name!r} is not opened any more: this process is shutting down")
    if keeper is None:
        text = "it was declared after the start, or after the one that asks for it"
        raise ResourceError(f"resource {name!r} is not open: {text}")
    if keeper.status.state == "closed":
        raise PoolClosed(f"resource {name!r} is closed: this process is shutting down")
    if keeper.status.state != "ready":
        text = keeper.status.text or "its first attempt has not ended"
        raise ResourceError(f"resource {name!r} is not ready: {text}")
    value: T = keeper.value
    return value


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


# -- without a lifespan


class _LoopSpan(Span):
    """Opens at the first question, and closes with its loop."""

    def __init__(self) -> None:
        super().__init__(lifespan_config(), loop_ends=lambda: self._guard.cancelling() > 0)
        # Not in the context of whoever asks: it outlives a request.
        context = contextvars.Context()
        self._guard = self.loop.create_task(self._watch(), name="poolkit guard", context=context)

    async def _watch(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:  # all tasks have been cancelled: the loop ends
            await self.close(self.config.stop_timeout)

    async def end(self) -> None:
        """Close everything. Takes `STOP_TIMEOUT` at most, and a moment for what hangs."""
        self._guard.cancel()
        await asyncio.wait({self._guard})


_spans: dict[asyncio.AbstractEventLoop, _LoopSpan] = {}
# Kept by a forked child, which has the tasks of its parent and cannot run them.
_inherited: list[object] = []


async def _opened(resource: Resource[Any]) -> Span:
    """Open a resource on the running loop, if it is not open there; return what is."""
    loop = asyncio.get_running_loop()
    span = _spans.get(loop)
    if span is None:
        for old in [each for each in list(_spans) if each.is_closed()]:
            _spans.pop(old, None)
        span = _spans[loop] = _LoopSpan()
    keeper = span.keeper(resource.name)
    if keeper is None or keeper.status.state in ("failed", "closed"):
        # Whoever asks needs it now: there is one attempt, and its error is for them.
        await span.open(replace(resource, required=True))
    elif keeper.status.state == "pending":
        await keeper.settled(resource.start_timeout or span.config.resource_start_timeout)
    return span


def close_all() -> None:
    """Close what was opened without a lifespan, on loops that go on or will not run again.

    Blocks for as long as the budgets allow. Called as the process ends.
    """
    for loop, span in list(_spans.items()):
        _spans.pop(loop, None)
        if loop.is_closed():
            continue
        if loop.is_running():
            closing = asyncio.run_coroutine_threadsafe(span.end(), loop)
            seconds = span.config.stop_timeout + _SLACK
            try:
                closing.result(seconds)
            except TimeoutError:
                logger.warning("event=exit_timeout seconds=%.2f", seconds)
        else:  # stopped and left, as by a server that was told to end
            loop.run_until_complete(span.end())


def _after_in_child() -> None:
    _inherited.append(dict(_spans))
    _spans.clear()


in_child(_after_in_child)
at_end(close_all)

"""The lifespan of this process: what a server has opened as it started, until it stops.

There is one at a time, on the server's event loop.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterable, MutableMapping
from contextlib import suppress
from typing import Any, Final

from django_poolkit import registry
from django_poolkit.conf.lifespan import LifespanConfig
from django_poolkit.lifespan import in_flight
from django_poolkit.lifespan.base import Resource, ResourceError, said_of, stack_of
from django_poolkit.lifespan.keeper import Status
from django_poolkit.lifespan.notice import Notice
from django_poolkit.lifespan.span import Span
from django_poolkit.pools.forks import in_child

logger = logging.getLogger("django_poolkit.lifespan")

# Seconds that are left for the pools, whatever became of the resources.
_LEAST: Final = 1.0

_current: Span | None = None
# A forked child keeps what it must not close: its parent goes on using the loop's descriptors.
_inherited: list[Span | None] = []


def current() -> Span | None:
    """Return what runs in this process, or has run: None before the first start."""
    if _current is not None and not _current.closed and _current.loop.is_closed():
        forget()  # its loop was closed under it
    return _current


def forget() -> None:
    """Let the process be as before its first start: resources open at their first use again."""
    global _current
    _current = None
    registry.pools.reopen()
    registry.asyncpg.reopen()
    registry.sessions.reopen()


def runs_here() -> bool:
    """Return whether the running event loop is that of the lifespan of this process."""
    span = current()
    return span is not None and not span.closed and span.loop is asyncio.get_running_loop()


def status() -> dict[str, Status]:
    """Return how each resource of the lifespan is; empty where a server has sent none."""
    span = current()
    return {} if span is None else span.status()


async def begin(
    config: LifespanConfig,
    resources: Iterable[Resource[Any]],
    state: MutableMapping[str, Any] | None = None,
) -> Span:
    """Open resources, and let them be the ones of this process. `state` is kept up to date.

    Raises ResourceError where a required one cannot be opened; by then all are closed again.
    """
    global _current
    if (before := current()) is not None and not before.closed:
        raise ResourceError("the lifespan of this process runs on another event loop already")
    forget()
    owner = asyncio.current_task()
    span = _current = Span(
        config,
        state=state,
        loop_ends=lambda: owner is not None and owner.cancelling() > 0,
    )
    if config.cut_after is not None:
        span.notice = Notice(config.cut_after)
        span.notice.listen()
    try:
        await span.open_all(resources)
    except GeneratorExit:  # the loop was closed: nothing can be awaited any more
        raise
    except BaseException:
        await end(span)
        raise
    logger.info("event=started resources=%d", len(span.status()))
    return span


async def end(span: Span) -> None:
    """Drain the requests, then close the resources in reverse order, then all pools.

    Takes `STOP_TIMEOUT` at most, and a moment for what has to be cancelled. A loop that ends
    while it drains cuts the requests, and nothing else: the resources wait to be closed.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + span.config.stop_timeout
    if span.notice is not None:
        span.notice.ignore()
    try:
        await in_flight.drain(span.config.drain_timeout)
    finally:
        await span.close(deadline - loop.time())
    await _shut_down_tables(deadline - loop.time())
    logger.info("event=stopped")


async def _shut_down_tables(seconds: float) -> None:
    """Close pools and client sessions for good: who still uses one gets PoolClosed, no new one."""
    seconds = max(seconds, _LEAST)
    each = seconds / (len(registry.pools) + len(registry.asyncpg) + 1)
    loop, done = asyncio.get_running_loop(), asyncio.Event()

    def shut_down() -> None:
        try:
            registry.sessions.shut_down(each)
            registry.asyncpg.shut_down(each)
            registry.pools.shut_down(each)
        except Exception as error:
            said, stack = said_of(error), stack_of(error)
            logger.error("resource=pools event=close_failed error=%s\n%s", said, stack)
        finally:
            with suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(done.set)

    # Those of the loop's executor may all be waiting for a name that nobody looks up.
    threading.Thread(target=shut_down, name="poolkit-shutdown", daemon=True).start()
    with suppress(TimeoutError):
        await asyncio.wait_for(done.wait(), seconds)


def _after_in_child() -> None:
    global _current
    _inherited.append(_current)
    _current = None


in_child(_after_in_child)

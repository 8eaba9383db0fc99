"""The requests and websockets that are being served: counted, so that nothing closes under them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from django_poolkit.pools.forks import in_child

logger = logging.getLogger("django_poolkit.lifespan")

# Seconds that those which are cut have for what they do in `finally`.
_FAREWELL: Final = 1.0

# By a key of its own each: a server may run all of them in what it calls one task.
_tasks: dict[object, asyncio.Task[Any] | None] = {}
# Who wants to know that none is left.
_wakers: list[Callable[[], object]] = []


class counted:  # noqa: N801 - used as a verb
    """Count a request for the length of a `with` block, in the task that serves it."""

    # A class, since each request passes it: a generator costs twice as much.
    __slots__ = ()

    def __enter__(self) -> None:
        _tasks[self] = asyncio.current_task()

    def __exit__(self, *_: object) -> None:
        _tasks.pop(self, None)  # not there in a forked child
        if not _tasks:
            for wake in list(_wakers):
                wake()


def count() -> int:
    """Return how many are being served."""
    return len(_tasks)


async def drain(seconds: float) -> None:
    """Wait up to `seconds` for those in flight, then cancel what is left of them.

    Returns a second later at most, whether they have ended or not.
    """
    if not _tasks:
        return
    logger.info("event=draining requests=%d", len(_tasks))
    await _until_none(seconds)
    if _tasks:
        cut()
        await _until_none(_FAREWELL)
    if _tasks:
        logger.warning("event=left requests=%d", len(_tasks))


def cut() -> None:
    """Cancel what is in flight on the running loop, but for the caller itself."""
    loop, me = asyncio.get_running_loop(), asyncio.current_task()
    # A copy made at once: a server may have other loops, in other threads.
    found = [task for task in list(_tasks.values()) if task is not None and task is not me]
    found = [task for task in found if task.get_loop() is loop]
    if found:
        logger.warning("event=cut requests=%d", len(found))
    for task in found:
        task.cancel()


async def _until_none(seconds: float) -> None:
    loop, none_left = asyncio.get_running_loop(), asyncio.Event()

    def wake() -> None:
        # The last one may end in another thread, if its server has several loops.
        loop.call_soon_threadsafe(none_left.set)

    _wakers.append(wake)
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while _tasks:
                    none_left.clear()
                    await none_left.wait()
    finally:
        _wakers.remove(wake)


def _after_in_child() -> None:
    _tasks.clear()
    _wakers.clear()


in_child(_after_in_child)

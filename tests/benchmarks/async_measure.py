"""What a request of an async ORM costs: alone, and of many at once. For each contestant's process.

Knows nothing but Python, since some of them are in environments of their own.
"""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from time import perf_counter, process_time

QUERIES = 3
"""Of each request of many."""

Request = Callable[[int], Awaitable[object]]


@contextmanager
def quiet() -> Iterator[None]:
    """Have no garbage collected meanwhile."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def one_at_a_time(request: Request, times: int) -> float:
    """Return the CPU of one query, in microseconds."""
    with quiet():
        started = process_time()
        for _ in range(times):
            await request(1)
        return (process_time() - started) / times * 1e6


async def at_once(request: Request, tasks: int) -> tuple[float, ...]:
    """Return the CPU of one request in microseconds, requests a second, and the most threads."""
    most, over = 0, threading.Event()

    async def look() -> None:
        nonlocal most
        while not over.is_set():
            most = max(most, threading.active_count())
            await asyncio.sleep(0.005)

    looking = asyncio.create_task(look())
    with quiet():
        cpu, wall = process_time(), perf_counter()
        await asyncio.gather(*(request(QUERIES) for _ in range(tasks)))
        cpu, wall = process_time() - cpu, perf_counter() - wall
    over.set()
    await looking
    return cpu / tasks * 1e6, tasks / wall, most

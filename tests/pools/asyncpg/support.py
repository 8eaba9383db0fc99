"""What the tests of the asyncpg pools share: loops of both kinds, and waits for facts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol, TypeVar

import uvloop

from django_poolkit.pools.asyncpg.pool import AsyncpgPool
from django_poolkit.testing import Node

T = TypeVar("T")
PATIENCE = 10.0


class Run(Protocol):
    """Runs a coroutine on a new event loop, and ends the loop."""

    def __call__(self, main: Coroutine[Any, Any, T], /) -> T: ...


class MakePool(Protocol):
    """Makes a pool on the tests' server."""

    def __call__(self, connect: dict[str, Any] | None = None, /, **options: Any) -> AsyncpgPool: ...


LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


def runner(kind: str) -> Run:
    """Return a `Run` for a kind of loop."""

    def run(main: Coroutine[Any, Any, T], /) -> T:
        with asyncio.Runner(loop_factory=LOOPS[kind]) as runner:
            return runner.run(main)

    return run


async def until(fact: Callable[[], object], message: str = "") -> None:
    """Wait for a fact, and let the loop run meanwhile."""
    deadline = time.monotonic() + PATIENCE
    while not fact():
        assert time.monotonic() < deadline, message or "it does not come about"
        await asyncio.sleep(0.002)


async def queue_up(pool: AsyncpgPool, timeout: float | None = None) -> asyncio.Task[Any]:
    """Return a task that stands in the queue of the pool."""
    before = pool.stats().waiters
    task = asyncio.create_task(pool.acquire(timeout))
    await until(lambda: pool.stats().waiters == before + 1, "it does not queue")
    return task


async def fill(pool: AsyncpgPool, count: int) -> list[int]:
    """Make `count` connections idle; return their server processes, first released first."""
    leases = [await pool.acquire() for _ in range(count)]
    pids = [lease.connection.get_server_pid() for lease in leases]
    for lease in leases:
        await lease.release()
    assert pool.stats().idle == count
    return pids


async def pid(pool: AsyncpgPool) -> int:
    """Return the server process of the next lease."""
    async with pool.lease() as connection:
        return int(connection.get_server_pid())


def assert_quiet(pool: AsyncpgPool) -> None:
    """Hold the pool's figures against each other where nothing is leased."""
    stats = pool.stats()
    assert (stats.used, stats.waiters) == (0, 0), stats.summary()
    assert stats.size == stats.idle + stats.used + stats.connecting
    assert stats.size <= stats.max_size
    assert stats.connects - sum(stats.closed.values()) == stats.idle, stats


def running(node: Node, name: str) -> list[str]:
    """Return the statements that run on the server in sessions of a name."""
    rows = node.execute(
        f"SELECT query FROM pg_stat_activity WHERE state = 'active' AND application_name = '{name}'"
    )
    return [row[0] for row in rows]


async def in_thread(call: Callable[[], T]) -> T:
    """Call what blocks."""
    return await asyncio.to_thread(call)


async def gather(*work: Awaitable[T]) -> list[Any]:
    """Await all, and return errors as values."""
    return list(await asyncio.gather(*work, return_exceptions=True))

"""What the tests of tasks share: loops of each kind, and facts to wait for on them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest
import uvloop

from django_poolkit.pools.postgres import ConnectionPool
from django_poolkit.testing import Node
from django_poolkit.testing.waiting import wait_until
from tests.pools.support import PATIENCE

SLEEP = "SELECT pg_sleep(60)"

T = TypeVar("T")
Main = Callable[[], Coroutine[Any, Any, T]]

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


def run_on(kind: str, main: Main[T]) -> T:
    """Run a coroutine on a new loop of a kind."""
    with asyncio.Runner(loop_factory=LOOPS[kind]) as runner:
        return runner.run(main())


@pytest.fixture(params=list(LOOPS))
def run_on_each(request: pytest.FixtureRequest) -> Callable[[Main[Any]], Any]:
    """Run a coroutine on each kind of loop."""
    return lambda main: run_on(request.param, main)


async def until(fact: Callable[[], bool], message: str = "it did not happen") -> None:
    """Wait on the loop for a fact."""
    end = asyncio.get_running_loop().time() + PATIENCE
    while not fact():
        assert asyncio.get_running_loop().time() < end, message
        await asyncio.sleep(0.001)


async def queued(pool: ConnectionPool, work: Awaitable[T]) -> asyncio.Future[T]:
    """Begin a task, and return it when it stands in the queue of the pool."""
    before = pool.stats().waiters
    task = asyncio.ensure_future(work)
    await until(lambda: pool.stats().waiters == before + 1, "it does not queue")
    return task


def running(primary: Node, app: str) -> list[str]:
    """Return the statements that run on the server in sessions of a name."""
    rows = primary.execute(
        f"SELECT query FROM pg_stat_activity WHERE state = 'active' AND application_name = '{app}'"
    )
    return [row[0] for row in rows]


async def until_runs(primary: Node, app: str, text: str = "pg_sleep", count: int = 1) -> None:
    """Wait until statements run on the server."""
    await asyncio.to_thread(
        wait_until, lambda: sum(text in each for each in running(primary, app)) >= count
    )


def assert_quiet(pool: ConnectionPool) -> None:
    """Hold the pool's figures against each other where nothing is leased."""
    wait_until(lambda: pool.stats().connecting == 0)
    stats = pool.stats()
    assert (stats.used, stats.waiters) == (0, 0), stats.summary()
    assert stats.size == stats.idle <= stats.max_size
    assert stats.connects - sum(stats.closed.values()) == stats.idle, stats
    assert not pool._rounds


def assert_idle_on_server(primary: Node, app: str) -> None:
    """Nothing runs on the server, and nothing is left in a transaction."""
    query = (
        f"SELECT count(*) FROM pg_stat_activity WHERE application_name = '{app}' "
        "AND state <> 'idle'"
    )
    wait_until(lambda: primary.execute(query)[0][0] == 0)


async def cancelled(task: asyncio.Future[Any]) -> None:
    """Cancel a task, and see that it ends as one that was."""
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@contextmanager
def slow_to_commit(primary: Node, table: str) -> Iterator[None]:
    """Have a table of one integer that takes 0.3 s to commit what is inserted; drop it after."""
    primary.execute(f"CREATE TABLE {table} (id int)")
    primary.execute(
        f"CREATE FUNCTION dawdle_{table}() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM pg_sleep(0.3); RETURN NULL; END $$"
    )
    try:
        primary.execute(
            f"CREATE CONSTRAINT TRIGGER late AFTER INSERT ON {table} DEFERRABLE "
            f"INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION dawdle_{table}()"
        )
        yield
    finally:
        primary.execute(f"DROP TABLE {table}")
        primary.execute(f"DROP FUNCTION dawdle_{table}()")

"""What the tests of the bridge share."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from django_poolkit.pools.postgres import ConnectionPool
from django_poolkit.testing.waiting import wait_until

SLEEP = "SELECT pg_sleep(60)"


def one(pool: ConnectionPool, text: str = "SELECT 1") -> Any:
    """Return the one value of a statement on a lease of its own."""
    with pool.lease() as connection:
        return connection.execute(text).fetchone()[0]


def by_itself(pool: ConnectionPool, text: str = "SELECT 1") -> Any:
    """The same in autocommit mode, and without a block: nothing but the statement is sent."""
    lease = pool.acquire()
    try:
        lease.connection.autocommit = True
        return lease.connection.execute(text).fetchone()[0]
    finally:
        lease.release()


def assert_idle_on_server(primary: Any, app: str) -> None:
    """Nothing runs on the server, and nothing is left in a transaction."""
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = '{}' AND state <> 'idle'"
    )
    wait_until(lambda: primary.execute(query.format(app))[0][0] == 0)


async def cancelled(task: asyncio.Future[Any]) -> None:
    """Cancel a task, and see that it ends as one that was."""
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

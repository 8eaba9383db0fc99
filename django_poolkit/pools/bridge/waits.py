"""How a connection waits for its server in the bridge: it suspends its task, not the thread.

Being cancelled is the normal case, and is what it is for a connection of a task
(`task_wait.py`): who waits has the server cancel the statement, and reads what is left.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any, Final

from greenlet import GreenletExit, getcurrent
from psycopg.waiting import wait_async

from django_poolkit.pools.bridge.driver import BridgeGreenlet, await_only, shielded
from django_poolkit.pools.bridge.lock import HybridLock
from django_poolkit.pools.deadline import current
from django_poolkit.pools.postgres import port, task_wait
from django_poolkit.pools.postgres.connection import PoolConnection

_INTERVAL: Final = 0.1  # psycopg's own

Steps = Generator[Any, Any, Any]


def wait(connection: PoolConnection, gen: Steps, seconds: float | None) -> Any:
    """Wait for the server until the deadline at most, `seconds` at most where that is not None.

    A call that is cancelled leaves nothing running. Raises DeadlineExceeded.
    """
    lease = connection._lease_ref()  # held by this frame: it is not dropped under one who waits
    connection._waited_on += 1
    try:
        if (deadline := current()) is None:
            return read(connection, gen, seconds)
        return await_only(task_wait.until(connection, gen, seconds, deadline))
    except (asyncio.CancelledError, KeyboardInterrupt, SystemExit):
        with shielded():
            await_only(task_wait.leave(connection, gen))
        raise
    except (GeneratorExit, GreenletExit):  # nobody may wait any more: the task is thrown away
        task_wait.abandon(connection)
        raise
    finally:
        connection._waited_on -= 1
        if lease is not None and lease.released and not connection._waited_on:
            connection.pgconn.finish()  # by whoever ended it, and could not do so: see `cut_off()`


def read(connection: PoolConnection, gen: Steps, seconds: float | None = None) -> Any:
    """Wait for the server with no other bound than `seconds`. Raises psycopg.Error."""
    return await_only(wait_async(gen, connection.pgconn.socket, _INTERVAL, seconds))


def _fill_port() -> None:
    port.await_only, port.shielded = await_only, shielded
    port.wait, port.read = wait, read
    port.lock = HybridLock
    for connection in port.all_connections():
        if not isinstance(connection.lock, HybridLock):
            connection.lock = HybridLock(connection.lock)
    # Last, and in this order: from here on they are asked for.
    port.Greenlet, port.getcurrent = BridgeGreenlet, getcurrent


_fill_port()

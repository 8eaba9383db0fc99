"""Is this connection alive? A free look at the socket first, a bounded round trip if need be.

`poll(0)` finds a socket that the server has closed or written to; it costs no packet
(libpq's own status finds neither). What it cannot see is a network that swallows packets:
so a connection that has been idle for longer than the bypass window is sent an empty query.
"""

from __future__ import annotations

import select
from enum import Enum
from time import monotonic
from typing import Final

import psycopg
from psycopg import generators, waiting
from psycopg.pq import ConnStatus, ExecStatus, TransactionStatus
from psycopg.pq.abc import PGresult

from django_poolkit.pools.patched import poller as new_poller
from django_poolkit.pools.postgres import port
from django_poolkit.pools.postgres.connection import PoolConnection

# Seconds left for a probe in an acquire whose time is up: one round trip on a local network.
SHORTEST: Final = 0.05

# How often a readable socket is read before it is asked: more than a farewell needs.
_LOOKS: Final = 3

_OK = ConnStatus.OK
_IDLE = TransactionStatus.IDLE
_FAILED = ExecStatus.FATAL_ERROR


class State(Enum):
    """What a look at a connection found; the values are the reasons to close one."""

    ALIVE = "alive"
    DEAD = "dead"
    SILENT = "silent"


def quiet(connection: PoolConnection) -> bool:
    """Return whether nothing waits on the socket: the server is there, as far as one can see.

    False also where a notice or a new parameter has arrived, which is no reason to drop it.
    """
    poller = connection._poller
    if poller is None:
        poller = connection._poller = new_poller()
        poller.register(connection.pgconn.socket, select.POLLIN)
    return not poller.poll(0)


def look(connection: PoolConnection, *, bypass: float, timeout: float) -> State:
    """Return whether the connection can be handed out. Blocks `timeout` seconds at most."""
    try:
        if (found := _seen(connection, bypass)) is not None:
            return found
        execute(connection, b"", timeout)
    except psycopg.errors._WaitTimeout:
        return State.SILENT
    except (psycopg.Error, OSError, ValueError):
        return State.DEAD
    return State.ALIVE if connection.pgconn.transaction_status == _IDLE else State.DEAD


async def look_on_loop(connection: PoolConnection, *, bypass: float, timeout: float) -> State:  # noqa: ASYNC109
    """Do as `look()`, and have the running loop wait for the answer instead of the thread."""
    try:
        if (found := _seen(connection, bypass)) is not None:
            return found
        pgconn = connection.pgconn
        pgconn.send_query(b"")
        steps = generators.execute(pgconn)
        results = await waiting.wait_async(steps, pgconn.socket, interval=timeout, timeout=timeout)
        if any(result.status == _FAILED for result in results):
            return State.DEAD
    except psycopg.errors._WaitTimeout:
        return State.SILENT
    except (psycopg.Error, OSError, ValueError):
        return State.DEAD
    return State.ALIVE if connection.pgconn.transaction_status == _IDLE else State.DEAD


def _seen(connection: PoolConnection, bypass: float) -> State | None:
    """Return what can be told without a word to the server, None where it has to be asked."""
    if quiet(connection):
        if connection.pgconn.transaction_status != _IDLE:
            return State.DEAD  # someone used it after giving it back, below its cursors
        return State.ALIVE if monotonic() - connection._used_at <= bypass else None
    return None if _drained(connection) else State.DEAD


def looked_at(connection: PoolConnection) -> None:
    """Stand for a check that every acquire has made by then anyhow."""


def execute(connection: PoolConnection, statements: bytes, timeout: float) -> list[PGresult]:
    """Run statements in one round trip, below psycopg's cursors and transactions.

    Blocks `timeout` seconds at most. Raises psycopg.Error, also for the answer of the server.
    """
    pgconn = connection.pgconn
    pgconn.send_query(statements)
    steps = generators.execute(pgconn)
    results: list[PGresult]
    # No deadline of the caller's ends it.
    if type(port.getcurrent()) is port.Greenlet:
        results = port.read(connection, steps, timeout)
    else:
        results = psycopg.Connection.wait(connection, steps, timeout=timeout)
    for result in results:
        if result.status == _FAILED:
            raise psycopg.errors.error_from_result(result)
    return results


def _drained(connection: PoolConnection) -> bool:
    # Notices, notifications and parameters leave the connection idle. A farewell of the server
    # reads like a notice; the end of the stream behind it is an error at the second look.
    pgconn = connection.pgconn
    for _ in range(_LOOKS):
        pgconn.consume_input()
        while pgconn.notifies():
            pass
        if quiet(connection):
            break
    return bool(pgconn.status == _OK)

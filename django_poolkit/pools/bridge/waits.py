"""How a connection waits for its server in the bridge: it suspends its task, not the thread.

Being cancelled is the normal case, and is what it is for a connection of a task
(`task_wait.py`): who waits has the server cancel the statement, and reads what is left.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Generator
from time import monotonic
from typing import Any, Final

import psycopg
from psycopg.waiting import Wait

from django_poolkit.pools.bridge.driver import BridgeGreenlet, await_only
from django_poolkit.pools.bridge.greenlets import GreenletExit, getcurrent
from django_poolkit.pools.bridge.lock import HybridLock
from django_poolkit.pools.bridge.shields import shielded
from django_poolkit.pools.bridge.sockets import Readiness, ready, sockets_of
from django_poolkit.pools.deadline import current
from django_poolkit.pools.postgres import cancel_request, port, task_wait
from django_poolkit.pools.postgres.connection import PoolConnection

_READ: Final = int(Wait.R)
_WRITE: Final = int(Wait.W)
# Seconds for which a call may go from wait to wait without one that is none.
_BUSY: Final = 0.005

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
        cancel_request.abandon(connection)
        raise
    finally:
        connection._waited_on -= 1
        if lease is not None and lease.released and not connection._waited_on:
            connection.pgconn.finish()  # by whoever ended it, and could not do so: see `cut_off()`


def read(connection: PoolConnection, gen: Steps, seconds: float | None = None) -> Any:
    """Wait for the server with no other bound than `seconds`, as psycopg's `wait_async()` does.

    What need not wait costs no switch. Raises psycopg.Error.
    """
    call: BridgeGreenlet = getcurrent()  # type: ignore[assignment]
    until = None if seconds is None else monotonic() + seconds
    try:
        wanted = next(gen)
    except StopIteration as end:
        if monotonic() - call.suspended > _BUSY:  # a COPY is many waits for nothing
            _let_others_run(call)
        return end.value
    try:
        fileno = connection.pgconn.socket
        while True:
            # A socket is nearly always writable.
            if not (wanted & _WRITE) or not (found := _ready_now(call, fileno, wanted)):
                found = _suspend(call, fileno, wanted, until)
            wanted = gen.send(found)
            if until is not None and monotonic() >= until:
                raise psycopg.errors._WaitTimeout("wait timeout expired")
    except StopIteration as end:
        return end.value
    except OSError as error:
        raise psycopg.OperationalError("connection socket closed") from error


def _suspend(call: BridgeGreenlet, fileno: int, wanted: int, until: float | None) -> int:
    """Return for what the socket is ready, 0 where the time is up first."""
    loop = call.loop
    sockets, waits = sockets_of(loop), Readiness(loop=loop)
    waits.wanted = wanted
    timer = None
    if until is not None:
        timer = loop.call_later(max(0.0, until - monotonic()), waits.wake, 0)
    try:
        sockets.arm(fileno, waits)
        return await_only(waits)
    finally:
        call.suspended = monotonic()
        if timer is not None:
            timer.cancel()
        sockets.disarm(fileno, waits)


def _ready_now(call: BridgeGreenlet, fileno: int, wanted: int) -> int:
    """Return for what the socket is ready, 0 where for nothing. Does not wait for it."""
    if monotonic() - call.suspended > _BUSY:
        _let_others_run(call)
    poller = select.poll()
    poller.register(fileno, (wanted & _READ and select.POLLIN) | select.POLLOUT)
    found = poller.poll(0)
    return ready(found[0][1]) & wanted if found else 0


def _let_others_run(call: BridgeGreenlet) -> None:
    await_only(asyncio.sleep(0))
    call.suspended = monotonic()


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

"""Leases of tasks, and their way home: at once where nothing is to be done, else on a thread.

A release is steadfast: whoever is cancelled in it is told when the connection is safe.
"""

from __future__ import annotations

import asyncio
from _thread import get_ident
from collections.abc import Generator
from time import monotonic
from typing import Any, Final

import psycopg
from psycopg import AsyncConnection
from psycopg.pq import TransactionStatus

from django_poolkit.pools.errors import PoolError
from django_poolkit.pools.lease import STACK_DEPTH, Lease
from django_poolkit.pools.postgres import cancel_request, late, port, task_wait
from django_poolkit.pools.postgres.connection import PoolConnection
from django_poolkit.pools.postgres.errors import LeaseReleased
from django_poolkit.pools.postgres.steadfast import in_thread, steadfast
from django_poolkit.pools.postgres.task_acquire import TaskAcquire
from django_poolkit.pools.postgres.task_connection import TaskConnection
from django_poolkit.pools.purpose import tell_lent, tell_refused

_IDLE: Final = int(TransactionStatus.IDLE)  # to compare with an enumeration's member is dearer
_ACTIVE: Final = TransactionStatus.ACTIVE
# Seconds between two looks whether those who share a connection have let go of it.
_LOOK: Final = 0.005


class TaskLease(Lease):
    """The right of one task to use one connection until it is released.

    `await lease.release()`, or `await lease.discard()` where the connection is not to be used
    again; `async with lease as connection:` does the former. A lease that is dropped instead is
    taken back by its pool, with a warning.
    """

    _own: TaskConnection | None = None

    @property
    def connection(self) -> Any:
        """The connection, a psycopg.AsyncConnection. None once the lease has been released."""
        if (held := self.held) is None:
            return None
        if self._own is None:
            self._own = TaskConnection(held, self)
        return self._own

    async def release(self) -> None:  # type: ignore[override]
        """Give the connection back. A second call raises LeaseReleased.

        Waits for the server only where there is something to clear away. Being cancelled keeps
        nothing from coming home.
        """
        await _pool_of(self).release_in_task(self)

    async def discard(self) -> None:  # type: ignore[override]
        """Give the slot back and close the connection. A second call raises LeaseReleased."""
        if (connection := self.held) is not None:
            cancel_request.abandon(connection)
        self.pool.discard(self)

    def __enter__(self) -> Any:
        raise TypeError("a lease of a task is entered by `async with`")

    async def __aenter__(self) -> Any:
        return self.connection

    async def __aexit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if not self.released:
            await _pool_of(self).end_in_task(self, kind)


class Leasing:
    """What `alease()` returns: `async with` yields the connection, `await` the lease."""

    __slots__ = ("_lease", "_pool", "_seconds")

    def __init__(self, pool: TaskRelease, seconds: float | None) -> None:
        self._pool = pool
        self._seconds = seconds
        self._lease: TaskLease | None = None

    def __await__(self) -> Generator[Any, Any, TaskLease]:
        return self._pool.aacquire(self._seconds).__await__()

    async def __aenter__(self) -> AsyncConnection[Any]:
        lease = self._lease = await self._pool.aacquire(self._seconds)
        lease.in_block = True
        connection: AsyncConnection[Any] = lease.connection
        return connection

    async def __aexit__(self, kind: type[BaseException] | None, *error: Any) -> None:
        lease, self._lease = self._lease, None
        if lease is None or lease.released or (kind is None and self._pool.ends_quietly(lease)):
            return
        try:
            # Nothing is to be committed where nothing is open.
            waits = kind is None or not issubclass(kind, GeneratorExit)
            if waits and lease.connection.pgconn.transaction_status != _IDLE:
                await _end_block(lease.connection, kind, *error)
        finally:
            if not lease.released:
                await self._pool.end_in_task(lease, kind)


async def _end_block(connection: Any, kind: type[BaseException] | None, *error: Any) -> None:
    """Commit or roll back, as psycopg does, unless a stream was left half way.

    That one has the connection's lock until it is closed: by the loop, as soon as nobody knows it
    any more; never, where somebody keeps it. Raises psycopg.OperationalError for a transaction
    that cannot be committed.
    """
    until = monotonic() + late.GRACE
    while _left_half_way(connection):
        if monotonic() > until:
            if kind is None and not connection.autocommit:
                raise psycopg.OperationalError(
                    "a stream was left half way, so the transaction of this block could not be "
                    "committed: read it to its end, or close it, as contextlib.aclosing() does"
                )
            return
        await asyncio.sleep(_LOOK)
    await task_wait.end_block(connection, kind, *error)


def _left_half_way(connection: Any) -> bool:
    runs = connection.pgconn.transaction_status == _ACTIVE
    return runs and connection.lock.locked() and not connection._waited_on


class TaskRelease(TaskAcquire):
    """Lends to tasks, and takes back. `ConnectionPool` is the whole."""

    async def aacquire(
        self,
        timeout: float | None = None,  # noqa: ASYNC109 - an acquire has a deadline of its own
        *,
        depth: int = STACK_DEPTH,
        skip: int = 1,
    ) -> TaskLease:
        """Acquire a connection in a task, and return its lease.

        Stands in the same queue as threads do. Waits and raises as `acquire()`, and never blocks
        the loop; being cancelled it leaves the queue at once.
        """
        context = None if self.context is None else self.context()
        try:
            lease = await self.acquire_as(TaskLease, timeout, depth=depth, skip=skip + 1)
        except PoolError as error:
            tell_refused(context, error)
            raise
        lease.context = tell_lent(context)
        return lease

    def alease(self, timeout: float | None = None) -> Leasing:
        """Acquire a connection for the length of an `async with` block, in a task.

        As with psycopg's own connections, the block's transaction is committed at its end,
        rolled back on an exception. `await pool.alease()` does as `aacquire()`, and so do both
        wait and raise.
        """
        return Leasing(self, timeout)

    async def release_in_task(self, lease: Lease) -> None:
        """Give back a connection that a task has acquired.

        Never blocks the loop: a rollback, a reset, and what the user wants called is done by a
        thread. Being cancelled meanwhile is told when the connection is safe. Raises as
        `release()`.
        """
        connection: PoolConnection | None = lease.held
        if lease.released or connection is None:
            raise LeaseReleased(f"this lease of pool {self.name!r} has been released already")
        if self.ends_quietly(lease):
            return
        if self._goes_at_once(lease, connection):
            self.release(lease)
        else:
            await steadfast(self._release_slowly(lease, connection))

    def _release_by_the_long_way(self, lease: Lease) -> None:
        connection: PoolConnection | None = lease.held
        if (
            type(port.getcurrent()) is not port.Greenlet
            or self._inside == get_ident()
            or lease.released
            or connection is None
            or self._goes_at_once(lease, connection)
        ):
            super()._release_by_the_long_way(lease)
            return
        # Synchronous code in the bridge. Who is cancelled in there is told when it is safe.
        if port.getcurrent().thrown_away:
            self._release_unattended(lease, connection)
            return
        with port.shielded():
            calls = self.config.reset_callback or self._configure
            if calls or connection._waited_on or connection.pgconn.transaction_status == _ACTIVE:
                port.await_only(self._release_slowly(lease, connection))
            else:
                lease.ends_on_loop = True
                super()._release_by_the_long_way(lease)

    def ends_at_once(self, lease: Lease) -> bool:
        """Return whether a release would wait for nothing, neither server nor user."""
        connection: PoolConnection | None = lease.held
        return connection is None or self._goes_at_once(lease, connection)

    def ends_quietly(self, lease: Lease) -> bool:
        """Give back a connection where nothing is to be done, as `release()` finds out."""
        raw = lease._connection
        if (
            lease.dirty is not None
            or not self._plain_home
            or (lease.foreign and self.config.reset == "request")
            or lease.holds
            or raw._waited_on
            or raw._pipeline
            or raw._num_transactions
            or raw._tpc
            or raw.pgconn.transaction_status != _IDLE
            or (lease.ran and raw._baseline.reported_change(raw))
            or self._inside == get_ident()
        ):
            return False
        self._home(lease, raw)
        return True

    async def end_in_task(self, lease: Lease, kind: type[BaseException] | None) -> None:
        """Give back at the end of a block, also of one whose task must not wait any more."""
        if kind is None or not issubclass(kind, GeneratorExit):
            await self.release_in_task(lease)
            return
        connection: PoolConnection = lease.held
        if self._goes_at_once(lease, connection):
            self.release(lease)
        else:
            self._release_unattended(lease, connection)

    def _release_unattended(self, lease: Lease, connection: PoolConnection) -> None:
        """Have somebody else do what a release has to wait for."""
        if connection._waited_on or connection.pgconn.transaction_status == _ACTIVE:
            cancel_request.abandon(connection)
            self.discard(lease)
        else:
            self._orphans.append((lease, "release"))
            self._call_adopter()

    def _goes_at_once(self, lease: Lease, connection: PoolConnection) -> bool:
        if connection._waited_on:
            return False
        return self._closed or not (
            self.config.reset_callback is not None or self._needs_work(lease)
        )

    async def _release_slowly(self, lease: Lease, connection: PoolConnection) -> None:
        shared = connection._waited_on > 0
        if connection.pgconn.transaction_status == _ACTIVE:
            # Somebody shares it, or has left a COPY or a stream half way.
            await task_wait.cancel(connection)
            connection._generation = late.DOUBTFUL
            until = monotonic() + late.GRACE
            while connection._waited_on and monotonic() < until:  # noqa: ASYNC110
                await asyncio.sleep(_LOOK)
        if shared:
            self.discard(lease)  # it may be in the middle of anything
        else:
            await in_thread(self.name, self.release, lease)


def _pool_of(lease: Lease) -> TaskRelease:
    assert isinstance(lease.pool, TaskRelease)
    return lease.pool

"""The connection of a pool as a task has it: psycopg's AsyncConnection on the same libpq one."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any, Final, NoReturn
from weakref import ref

import psycopg
from psycopg.adapt import AdaptersMap
from psycopg.pq import ConnStatus, TransactionStatus
from psycopg.waiting import wait_async

from django_poolkit.pools.deadline import current
from django_poolkit.pools.lease import Lease
from django_poolkit.pools.postgres import cancel_request, commit, task_wait
from django_poolkit.pools.postgres.connection import PoolConnection
from django_poolkit.pools.postgres.cursor import PSYCOPG, module_of
from django_poolkit.pools.postgres.errors import LeaseReleased
from django_poolkit.pools.postgres.task_cursor import counterpart, leased_for_tasks

_INTERVAL: Final = 0.1  # psycopg's own
_OK: Final = ConnStatus.OK
_IDLE: Final = TransactionStatus.IDLE


class TaskConnection(psycopg.AsyncConnection[Any]):
    """A connection of a pool, for the length of a lease, for one task.

    Each use after that raises LeaseReleased.
    """

    # What psycopg keeps of a connection is in its dict, and that is the one of the pool's own
    # object: so adapters, prepared statements, autocommit, handlers, all that counts in psycopg
    # and in the pool, is there once. In slots is what a task has for itself.
    __slots__ = ("_bound", "_lease_ref", "cursor_factory", "lock", "server_cursor_factory")
    _plans: Any
    _baseline: Any
    _adapters_shown: bool
    _waited_on: int

    def __init__(self, connection: PoolConnection, lease: Lease) -> None:
        # Not psycopg's: it would begin anew what goes on, and take the notices for itself.
        if connection._factories != connection._for_tasks[0]:
            connection._for_tasks = connection._factories, _factories_for_tasks(connection)
        self.__dict__ = connection.__dict__
        self._lease_ref = ref(lease)
        self.lock = asyncio.Lock()
        self._bound = connection._for_tasks[1]
        self.cursor_factory, self.server_cursor_factory = self._bound

    def _lease(self) -> Lease:
        """Return the lease under which it is used. Raises LeaseReleased."""
        lease = self._lease_ref()
        if lease is None or lease.released or lease.lost:
            self._refuse(lease)
        return lease

    @staticmethod
    def _refuse(lease: Lease | None) -> NoReturn:
        if lease is not None and lease.released:
            raise LeaseReleased(
                "this connection has been given back to its pool: acquire one again"
            )
        raise LeaseReleased(
            "the lease of this connection has been dropped: hold it for as long as the "
            "connection is used, or acquire with `async with pool.alease() as connection`"
        )

    @property
    def adapters(self) -> AdaptersMap:
        """The adapters, as psycopg has it. Whoever takes hold of them may register some."""
        if not self._adapters_shown and module_of(1) != PSYCOPG:  # whose cursors copy them
            self._adapters_shown = True
        return super().adapters

    def cursor(self, *args: Any, **kwargs: Any) -> Any:
        """Return a cursor that is refused once the lease has ended. Raises LeaseReleased."""
        self._lease()
        client, server = self._bound
        if self.cursor_factory is not client or self.server_cursor_factory is not server:
            self._bind()
        if args or kwargs or self.pgconn.status != _OK:
            return super().cursor(*args, **kwargs)
        # Every statement passes here: psycopg's own comes to the same.
        return self.cursor_factory(self, row_factory=self.row_factory)

    def _bind(self) -> None:
        preparing = self._plans is not None
        self.cursor_factory = leased_for_tasks(self.cursor_factory, preparing=preparing)
        self.server_cursor_factory = leased_for_tasks(self.server_cursor_factory, preparing=False)
        self._bound = self.cursor_factory, self.server_cursor_factory

    async def wait(
        self,
        gen: Any,
        interval: float = _INTERVAL,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> Any:
        """Wait for the server, as psycopg does, until the deadline at most.

        A task that is cancelled leaves nothing running. Raises DeadlineExceeded, LeaseReleased.
        """
        lease = self._lease()  # held by this frame: it is not dropped under one who waits
        self._waited_on += 1
        try:
            if (deadline := current()) is None:
                return await wait_async(gen, self.pgconn.socket, interval, timeout)
            return await task_wait.until(self, gen, timeout, deadline)
        except (asyncio.CancelledError, KeyboardInterrupt, SystemExit):
            await task_wait.leave(self, gen)
            raise
        except GeneratorExit:  # nobody may wait any more: the task is thrown away
            cancel_request.abandon(self)  # type: ignore[arg-type]
            raise
        finally:
            self._waited_on -= 1
            if lease.released and not self._waited_on:
                self.pgconn.finish()  # by whoever shared it, and could not do so: see `cut_off()`

    def _exec_command(self, *args: Any, **kwargs: Any) -> Any:
        # BEGIN, COMMIT and ROLLBACK of psycopg itself pass here, and nothing of the pool's.
        self._lease()
        if self._plans is not None and self.pgconn.transaction_status == _IDLE:
            self._plans.begin()
        return super()._exec_command(*args, **kwargs)

    def _commit_gen(self) -> Generator[Any, Any, None]:
        plain, lease = super()._commit_gen(), self._lease()
        if not lease.wrote or (listener := lease.pool.statements.commits) is None:
            return plain
        return commit.steps(self, lease, listener, plain)  # type: ignore[arg-type]

    def transaction(self, *args: Any, **kwargs: Any) -> Any:
        """Open a transaction block, as psycopg does. Raises LeaseReleased."""
        self._lease()
        return _Block(self, super().transaction(*args, **kwargs))

    def pipeline(self) -> Any:
        """Open a pipeline, as psycopg does. Raises LeaseReleased."""
        self._lease()
        return super().pipeline()

    def cancel(self) -> None:
        """Cancel what runs, as psycopg does. Blocks. Raises LeaseReleased."""
        self._lease()
        super().cancel()

    async def cancel_safe(self, *, timeout: float = 30.0) -> None:  # noqa: ASYNC109
        """Cancel what runs, as psycopg does. Raises LeaseReleased."""
        self._lease()
        await super().cancel_safe(timeout=timeout)

    async def close(self) -> None:
        """Close the connection, which frees its slot when the lease is released.

        With the option `close_returns` it is given back instead, as psycopg_pool has it. Raises
        LeaseReleased.
        """
        lease = self._lease()
        pool: Any = lease.pool
        if pool.config.close_returns:
            await pool.release_in_task(lease)
        elif not self.closed:
            cancel_request.abandon(self)  # type: ignore[arg-type]
            self._closed = True
            self.pgconn.finish()

    def cut_off(self) -> None:
        """Hang up on the server. Who waits for the connection finds that out."""
        lease = self._lease_ref()
        if lease is not None and (connection := lease.held) is not None:
            connection.cut_off()


class _Block:
    """A block of psycopg's `transaction()`, which whoever is cancelled leaves within bounds."""

    __slots__ = ("_connection", "_plain")

    def __init__(self, connection: TaskConnection, plain: Any) -> None:
        self._connection = connection
        self._plain = plain

    async def __aenter__(self) -> Any:
        return await self._plain.__aenter__()

    async def __aexit__(self, kind: type[BaseException] | None, *error: Any) -> Any:
        blocks = self._connection._num_transactions
        try:
            return await task_wait.end_block(self._plain, kind, *error)
        finally:
            cancelled = kind is not None and issubclass(kind, asyncio.CancelledError)
            if cancelled and self._connection._num_transactions == blocks:
                # Whoever shares the connection has not let go of it, so nothing is rolled back:
                # what goes on with it would be taken for a part of this block.
                self._connection.cut_off()


def _factories_for_tasks(connection: PoolConnection) -> tuple[type[Any], type[Any]]:
    client, server = connection.cursor_factory, connection.server_cursor_factory
    return (
        leased_for_tasks(counterpart(client), preparing=connection._plans is not None),
        leased_for_tasks(counterpart(server), preparing=False),
    )

"""The psycopg connection that knows which lease it serves."""

from __future__ import annotations

import os
import select
import socket
from collections import deque
from collections.abc import Callable, Generator
from contextlib import suppress
from typing import Any, Final, NoReturn

import psycopg
from psycopg.abc import AdaptContext
from psycopg.adapt import AdaptersMap
from psycopg.pq import ConnStatus, TransactionStatus

from django_poolkit.pools.deadline import Deadline, current
from django_poolkit.pools.lease import Lease
from django_poolkit.pools.postgres import cancel_request, commit, late, port
from django_poolkit.pools.postgres.cursor import PSYCOPG, module_of
from django_poolkit.pools.postgres.errors import LeaseReleased
from django_poolkit.pools.postgres.leased_cursor import leased
from django_poolkit.pools.postgres.plans import Plans, Prepared
from django_poolkit.pools.postgres.wal import Server

# What a pooler in between, a function or a DO block may have changed without a text that shows
# it, and the server reports unasked (search_path and the read-only default since PostgreSQL 18
# and 14).
REPORTED: Final = (
    b"TimeZone", b"search_path", b"is_superuser", b"session_authorization", b"DateStyle",
    b"IntervalStyle", b"default_transaction_read_only", b"standard_conforming_strings",
    b"application_name", b"client_encoding",
)  # fmt: skip


def reported(connection: PoolConnection) -> list[bytes | None]:
    """Return the session's settings as far as the server reports them. Sends nothing."""
    read = connection.pgconn.parameter_status
    return [*map(read, REPORTED)]


_OK: Final = ConnStatus.OK
_INTERVAL: Final = 0.1  # psycopg's own, between two looks for an interrupt
_IDLE: Final = TransactionStatus.IDLE
KILLED: Final = -1
"""The generation of a connection that is never to be lent again."""
DEMOTED: Final = -3  # -2 is late.DOUBTFUL
"""The same, because its server is a standby that has refused a write."""


def no_lease() -> None:
    """Stand for the lease of a connection that nobody holds."""
    return


class PoolConnection(psycopg.Connection[Any]):
    """A connection of a pool. Its cursors are bound to the lease they were opened under."""

    _restore_sql = b""
    _plain = True  # whether cursor() below is psycopg's own
    _shared = False  # whether a pooler may lead each of its transactions to another session
    _introduced = False  # whether every class of database wrapper in between has seen it
    # Asks the server for its session state, where the pool verifies it.
    _look: Callable[[PoolConnection], frozenset[tuple[str, str, str]]] | None = None
    _ground_state: frozenset[tuple[str, str, str]] = frozenset()  # which every lease begins with
    # What each lease asks has no default on the class: CPython 3.12 and 3.13 are slow on an
    # attribute that is both.
    _baseline: Baseline
    _plans: Prepared | None  # psycopg's manager of statements, where that is the pool's
    _lease_ref: Callable[[], Lease | None]
    _owned_lease: Lease | None
    _parked: bool
    _generation: int
    _used_at: float  # when it was last heard of
    _idle_since: float  # when its last lease ended
    _factories: tuple[object, object]  # which are bound to leases
    _poller: select.poll | None
    _server: Server | None  # which it leads to, as soon as somebody has asked
    _greeted: object  # the pool's `greeting` at the last connection_created, and who received it
    # The deadline for which its last cancellation was sent, and the generation that it has again
    # as soon as that has come; None where it is not known whether the server has heard.
    _cancelled_for: Deadline | None
    _certain: int | None
    _waited_on: int  # tasks of a loop that wait for its socket; written on that loop alone
    _for_tasks: tuple[object, Any]  # its factories, and the same for tasks
    _abandoned: bool  # whether a thread has been sent to cancel what runs: see `cancel_request.py`
    _adapters_shown: bool  # whether anybody may have registered adapters since `settle()`

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._lease_ref = no_lease
        self._owned_lease = self._poller = self._greeted = self._server = self._plans = None
        self._cancelled_for = self._certain = None
        self._parked = self._abandoned = False
        self._adapters_shown = True
        self._generation = 0
        self._used_at = self._idle_since = 0.0
        self._factories = self._for_tasks = None, None
        self._waited_on = 0
        super().__init__(*args, **kwargs)
        port.connections.add(self)  # first: whoever loads the bridge meanwhile looks there
        if port.lock is not None:
            self.lock = port.lock(self.lock)

    def cursor(self, *args: Any, **kwargs: Any) -> Any:
        """Return a cursor that is refused once the lease has ended. Raises LeaseReleased."""
        if self._parked:
            self._refuse_parked()
        lease = self._lease_ref()
        if lease.lost if lease is not None else self._lease_ref is not no_lease:
            raise LeaseReleased(
                "the lease of this connection has been dropped: hold it for as long as the "
                "connection is used, or acquire with `with pool.lease() as connection`"
            )
        # Instrumentation replaces the factories on a living connection, so look each time.
        client, server = self._factories
        if self.cursor_factory is not client or self.server_cursor_factory is not server:
            self._bind_factories()
        if args or kwargs or not self._plain or self.pgconn.status != _OK:
            return super().cursor(*args, **kwargs)
        # Every statement passes here: psycopg's own comes to the same.
        return self.cursor_factory(self, row_factory=self.row_factory)

    @property
    def adapters(self) -> AdaptersMap:
        """The adapters, as psycopg has it. Whoever takes hold of them may register some."""
        if not self._adapters_shown and module_of(1) != PSYCOPG:  # whose cursors copy them
            self._adapters_shown = True
        return super().adapters

    def adapt_by(self, context: AdaptContext) -> None:
        """Have what this lease runs adapted by a copy of another context's adapters."""
        self._adapters = AdaptersMap(context.adapters)
        self._adapters_shown = True  # so that the release brings the pool's back

    def _bind_factories(self) -> None:
        preparing = self._plans is not None
        client = self.cursor_factory = leased(self.cursor_factory, preparing=preparing)
        server = self.server_cursor_factory = leased(self.server_cursor_factory)
        self._factories = client, server

    def _exec_command(self, *args: Any, **kwargs: Any) -> Any:
        # BEGIN, COMMIT and ROLLBACK of psycopg itself pass here, and nothing of the pool's.
        if self._parked:
            self._refuse_parked()
        if self._plans is not None and self.pgconn.transaction_status == _IDLE:
            self._plans.begin()
        return super()._exec_command(*args, **kwargs)

    def _commit_gen(self) -> Generator[Any, Any, None]:
        plain = super()._commit_gen()
        lease = self._lease_ref()
        if lease is None or not lease.wrote or (listener := lease.pool.statements.commits) is None:
            return plain
        return commit.steps(self, lease, listener, plain)

    def transaction(self, *args: Any, **kwargs: Any) -> Any:
        """Open a transaction block, as psycopg does. Raises LeaseReleased."""
        if self._parked:
            self._refuse_parked()
        return super().transaction(*args, **kwargs)

    def pipeline(self) -> Any:
        """Open a pipeline, as psycopg does. Raises LeaseReleased."""
        if self._parked:
            self._refuse_parked()
        return super().pipeline()

    def wait(self, gen: Any, interval: float = _INTERVAL, timeout: float | None = None) -> Any:
        """Wait for the server, as psycopg does, until the deadline at most.

        In the bridge the task waits, and not the thread. Raises DeadlineExceeded.
        """
        if type(port.getcurrent()) is port.Greenlet:
            return port.wait(self, gen, timeout)
        if (deadline := current()) is None:
            return super().wait(gen, interval, timeout)
        return late.wait(self, gen, interval, timeout, deadline)

    def close(self) -> None:
        """Close the connection, as psycopg does. What its lease has left running is cancelled."""
        if self._lease_ref is not no_lease and not getattr(self._pool, "close_returns", False):
            cancel_request.abandon(self)
        super().close()

    def _refuse_parked(self) -> NoReturn:
        raise LeaseReleased("this connection has been given back to its pool: acquire one again")

    def cut_off(self) -> None:
        """Hang up on the server, and have whoever waits for the socket find that out.

        Its number stays taken: to give that to another one would be worse where a loop still
        looks at it.
        """
        with (
            suppress(OSError, psycopg.Error),
            socket.socket(fileno=os.dup(self.pgconn.socket)) as line,
        ):
            line.shutdown(socket.SHUT_RDWR)

    def prepare_by(self, plans: Plans) -> None:
        """Have statements prepared by the rules of the pool, from the first one on."""
        prepared = self._plans = Prepared(plans, self.pgconn)
        prepared.prepare_threshold = self._prepared.prepare_threshold
        self._prepared = prepared

    def forget_prepared(self) -> None:
        """Forget what psycopg has prepared: the server is told to, by other means."""
        prepared = self._prepared
        prepared._names.clear()
        prepared._counts.clear()
        prepared._to_flush.clear()

    def settle(self) -> None:
        """Take the present attributes as those that every lease begins with.

        Called when the connection has been configured, and when receivers have seen it.
        """
        self._bind_factories()
        self._adapters = AdaptersMap(self.adapters)
        self._adapters_shown = False
        self._baseline = Baseline(self)
        self.read_ground_state()

    def read_ground_state(self) -> None:
        """Take what the server says now as the state that every lease begins with.

        Sends nothing where the pool does not verify it. Raises psycopg.Error.
        """
        if self._look is not None:
            self._ground_state = self._look(self)


class Baseline:
    """The Python side of a connection as it was when it was made."""

    __slots__ = ("adapters", "attributes", "parameters")

    adapters: AdaptersMap
    """Those of the connection. Nobody registers here, so that its cursors share them."""

    def __init__(self, connection: PoolConnection) -> None:
        self.attributes = tuple(
            value.copy() if isinstance(value, list | dict) else value
            for value in attributes(connection)
        )
        self.adapters = AdaptersMap(connection._adapters)
        self.read_parameters(connection)

    def read_parameters(self, connection: PoolConnection) -> None:
        """Take what the server reports now as the ground state."""
        self.parameters = reported(connection)

    def reported_change(self, connection: PoolConnection) -> bool:
        """Return whether the server has reported another value of a session parameter."""
        return reported(connection) != self.parameters

    def restore(self, connection: PoolConnection) -> None:
        """Undo what a lease changed. Sends nothing."""
        if attributes(connection) != self.attributes:
            self._undo(connection)
        if connection._notifies_backlog is None or connection._notifies_backlog:
            connection._notifies_backlog = deque()

    def _undo(self, c: Any) -> None:
        (
            c._autocommit, c._isolation_level, c._read_only, c._deferrable,
            c.row_factory, c.cursor_factory, c.server_cursor_factory,
            c._prepared.prepare_threshold, c._prepared.prepared_max,
            c._notice_handlers[:], c._notify_handlers[:], *_,
        ) = self.attributes  # fmt: skip
        c._begin_statement = b""  # psycopg caches BEGIN with its attributes
        c._adapters = AdaptersMap(self.adapters)
        c._adapters_shown = False


def attributes(c: Any) -> tuple[Any, ...]:
    """Return what a caller may change on the Python object.

    By the slots that psycopg keeps it in: the public setters would refuse, or send a statement.
    """
    prepared = c._prepared
    return (
        c._autocommit, c._isolation_level, c._read_only, c._deferrable,
        c.row_factory, c.cursor_factory, c.server_cursor_factory,
        prepared.prepare_threshold, prepared.prepared_max,
        c._notice_handlers, c._notify_handlers, c._adapters_shown,
    )  # fmt: skip

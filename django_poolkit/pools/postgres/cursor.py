"""Cursors bound to their lease: what they run is noted, and after release they refuse.

The hook is the psycopg cursor class, because everybody's cursors pass it: Django's, raw ones,
named ones, COPY, and those of instrumentation that wraps its own class around.
"""

from __future__ import annotations

import sys
from _thread import get_ident
from collections.abc import Callable, Generator, Iterator
from typing import Any, ClassVar, Final, NoReturn, cast

import psycopg
from psycopg import _cursor_base, sql
from psycopg.pq import DiagnosticField

from django_poolkit.pools.lease import Lease
from django_poolkit.pools.postgres import port
from django_poolkit.pools.postgres.errors import LeaseReleased

# read_only_sql_transaction. One's own SET TRANSACTION READ ONLY has it as well.
_READ_ONLY: Final = b"25006"
_SQLSTATE: Final = DiagnosticField.SQLSTATE

PSYCOPG: Final = _cursor_base.__name__
"""The module of which the functions ask a cursor and its connection on their own account."""


def text_of(query: Any, connection: psycopg.Connection[Any]) -> str | None:
    """Return the statement as text, None where it has none to be read."""
    if isinstance(query, str):
        return query
    if isinstance(query, bytes):
        return query.decode("latin-1")
    if isinstance(query, sql.Composable):
        return query.as_string(connection)
    return None


def _module_of_frame(depth: int) -> str | None:
    name: str | None = sys._getframe(depth + 1).f_globals.get("__name__")
    return name


# Python 3.12's makes no object of a frame that is otherwise needed by nobody.
module_of: Final[Callable[[int], str | None]] = getattr(
    sys, "_getframemodulename", _module_of_frame
)


class ClientCursor:
    """What a cursor of psycopg has in front of its own."""

    # Of the class that it is mixed into: in a dict, they would cost each cursor one.
    _poolkit_slots: ClassVar[tuple[str, ...]] = (
        "_poolkit_counted", "_poolkit_lease", "_poolkit_turn",
    )  # fmt: skip
    _poolkit_lease: Lease | None
    _poolkit_counted: bool
    _poolkit_turn: int
    _conn: Any

    def __init__(self, connection: Any, *args: Any, row_factory: Any = None, **kwargs: Any) -> None:
        lease = self._poolkit_lease = connection._lease_ref()
        self._poolkit_counted = False
        self._poolkit_turn = 0
        if lease is not None:
            self._poolkit_turn = lease.turn
            if lease.keeper is not None:
                lease.cursors += 1
                self._poolkit_counted = True
        # psycopg's way of calling it, spelled out: others cost more than all the rest in here.
        if args or kwargs:
            super().__init__(connection, *args, row_factory=row_factory, **kwargs)  # type: ignore[call-arg]
        else:
            super().__init__(connection, row_factory=row_factory)  # type: ignore[call-arg]

    def close(self) -> None:
        """Close the cursor, as psycopg does. The lease may end with its last one."""
        try:
            super().close()  # type: ignore[misc]
        finally:
            self._poolkit_ended()
            if self._poolkit_counted:
                self._poolkit_counted = False
                self._poolkit_lease.cursor_closed()  # type: ignore[union-attr]

    def __del__(self) -> None:
        try:
            counted = self._poolkit_counted
        except AttributeError:  # it was refused its arguments
            return
        if counted:
            self._poolkit_counted = False
            _dropped(cast(Lease, self._poolkit_lease))

    def _poolkit_ended(self) -> None:
        """Tell of what a statement wrote alone: it may have been committed by now."""
        if (lease := self._poolkit_lease) is not None and lease._lone:
            lease.pool.statements.lone_ended(lease)

    def _poolkit_leave(self) -> None:
        self._poolkit_counted = False
        self._poolkit_lease.cursor_closed()  # type: ignore[union-attr]

    @property
    def connection(self) -> Any:
        """The psycopg connection. Whoever takes hold of it from outside pins its lease."""
        lease = self._poolkit_lease
        if (
            lease is not None
            and lease.keeper is not None
            and lease.pinned is None
            and module_of(1) != PSYCOPG  # which asks as each statement begins
        ):
            lease.pool.statements.raw_access(lease, sys._getframe(1))
        return self._conn

    def _poolkit_note(self, query: Any) -> None:
        lease = self._poolkit_lease
        if lease is None:
            return  # configure, check and reset callbacks work on connections nobody holds
        if lease.released or self._poolkit_turn != lease.turn:
            raise refused()
        if query is not None:
            lease.pool.statements.note(lease, query, self._conn)

    def executemany(self, *args: Any, **kwargs: Any) -> None:
        # psycopg opens a pipeline around it, which would reach the server before the refusal.
        self._poolkit_note(None)
        super().executemany(*args, **kwargs)  # type: ignore[misc]

    def _start_query(self, query: Any = None) -> Generator[Any, Any, None]:
        # As `_poolkit_note` does it, without its price: every statement passes here.
        if (lease := self._poolkit_lease) is not None:
            if lease.released or self._poolkit_turn != lease.turn:
                raise refused()
            if query is not None:
                statements = lease.pool.statements
                if type(query) is str and query in statements.quick and lease.dirty is None:
                    lease.ran, lease.statement = True, query  # all that there is to note
                else:
                    statements.note(lease, query, self._conn)
        return super()._start_query(query)  # type: ignore[misc,no-any-return]

    def stream(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        """Iterate over rows as they come, as psycopg does."""
        rows = super().stream(*args, **kwargs)  # type: ignore[misc]
        bridging = type(port.getcurrent()) is port.Greenlet
        return _ended_in_peace(rows) if bridging else cast(Iterator[Any], rows)

    def _start_copy_gen(self, statement: Any, *args: Any, **kwargs: Any) -> Any:
        self._poolkit_note(statement)
        return self._poolkit_watched(super()._start_copy_gen(statement, *args, **kwargs))  # type: ignore[misc]

    def _poolkit_watched(self, steps: Any) -> Generator[Any, Any, Any]:
        # A COPY raises by itself what else goes through _raise_for_result().
        try:
            return (yield from steps)
        except psycopg.errors.ReadOnlySqlTransaction:
            self._poolkit_refused_write()
            raise

    def _check_result_for_fetch(self) -> Any:
        lease = self._poolkit_lease
        if lease is not None and (lease.released or self._poolkit_turn != lease.turn):
            raise refused()
        return super()._check_result_for_fetch()  # type: ignore[misc]

    def _raise_for_result(self, result: Any) -> NoReturn:
        # Where psycopg comes with an error of the server, and with nothing else.
        if result.error_field(_SQLSTATE) == _READ_ONLY:
            self._poolkit_refused_write()
        super()._raise_for_result(result)  # type: ignore[misc]
        raise AssertionError("psycopg raises")

    def _poolkit_refused_write(self) -> None:
        lease, status = self._poolkit_lease, self._conn.pgconn.parameter_status
        if lease is not None and status(b"in_hot_standby") == b"on":
            cast(Any, lease.pool).demoted(self._conn)


class ServerCursor(ClientCursor):
    """The same for a cursor that the server knows by name."""

    _poolkit_slots = (*ClientCursor._poolkit_slots, "_poolkit_open")
    _poolkit_open: bool

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._poolkit_open = False
        super().__init__(*args, **kwargs)

    def close(self) -> None:
        """Close the cursor, as psycopg does, but never wait for a statement that is under way.

        A garbage collector may come here in the middle of one, in the same thread: psycopg's
        lock is not reentrant. What stays open on the server is closed by the release.
        """
        lease = self._poolkit_lease
        over = lease is not None and (lease.released or self._poolkit_turn != lease.turn)
        if lease is not None and (over or self._conn.lock.locked()):
            self._close()  # type: ignore[attr-defined]
            if self._poolkit_counted:
                self._poolkit_leave()
        else:
            # It may be a dropped generator that does: what is told in there, nobody hears.
            with port.shielded(port.ENDING):
                super().close()

    def _declare_gen(self, query: Any, *args: Any, **kwargs: Any) -> Generator[Any, Any, None]:
        lease = self._poolkit_lease
        if lease is not None:
            lease.pool.statements.declares(held=self.withhold)  # type: ignore[attr-defined]
        self._poolkit_note(query)
        yield from super()._declare_gen(query, *args, **kwargs)  # type: ignore[misc]
        if self._poolkit_lease is not None and self.withhold:  # type: ignore[attr-defined]
            # It outlives its transaction: the lease is dirty until it has been closed.
            self._poolkit_lease.holds += not self._poolkit_open
            self._poolkit_open = True

    def _start_query(self, query: Any = None) -> Generator[Any, Any, None]:
        # The DECLARE around a noted statement is psycopg's own.
        self._poolkit_note(None)
        return super(ClientCursor, self)._start_query(query)  # type: ignore[misc,no-any-return]

    def _fetch_gen(self, num: int | None) -> Any:
        self._poolkit_note(None)
        return super()._fetch_gen(num)  # type: ignore[misc]

    def _scroll_gen(self, value: int, mode: str) -> Any:
        self._poolkit_note(None)
        return super()._scroll_gen(value, mode)  # type: ignore[misc]

    def _close_gen(self) -> Generator[Any, Any, None]:
        lease = self._poolkit_lease
        if lease is not None and (lease.released or self._poolkit_turn != lease.turn):
            return  # the release has closed it, and the connection may be another's by now
        yield from super()._close_gen()  # type: ignore[misc]
        if lease is not None and self._poolkit_open:
            lease.holds -= 1
            self._poolkit_open = False


def _ended_in_peace(rows: Any) -> Iterator[Any]:
    """Yield what a generator does. Where it is left half way, a cancellation waits for its end.

    A dropped one is ended by the interpreter, and what is raised in there, nobody hears.
    """
    try:
        for row in rows:  # noqa: UP028 - which would end it before what is said here
            yield row
    finally:
        with port.shielded(port.ENDING):
            rows.close()


def _dropped(lease: Lease) -> None:
    """Count a cursor out by its finalizer, which must not wait on an event loop.

    It may run in the middle of anything, and a cancellation that came meanwhile would be lost.
    """
    if (
        lease.loop is not None
        and lease.keeper is not None
        and lease.owner == get_ident()
        and not cast(Any, lease.pool).ends_at_once(lease)
    ):
        # As in another thread: whoever passes has a worker do it, or the call's own end does.
        lease.gone.append(None)
        if not lease.busy and not lease.released:
            lease.pool.adrift(lease)
    else:
        lease.cursor_closed()


def refused() -> LeaseReleased:
    """Return the error for whoever uses a cursor after its lease has ended."""
    return LeaseReleased("the lease of this cursor has been released: open a new cursor")

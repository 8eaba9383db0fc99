"""COMMIT, asked where in the write-ahead log it ended, in the round trip that it takes anyhow.

One simple query holds three statements: whether the transaction has written, the COMMIT, and where
the server is after it. Its results come one by one, so those before an error, or before the end of
the connection, tell what has happened: what goes wrong behind the COMMIT is nobody's error.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Protocol

import psycopg
from psycopg import generators
from psycopg.pq import DiagnosticField, ExecStatus, TransactionStatus
from psycopg.pq.abc import PGresult

from django_poolkit.pools.lease import Lease
from django_poolkit.pools.postgres.wal import (
    SERVER,
    SERVER_FROM,
    WRITTEN,
    Position,
    server_of,
    written_at,
)

if TYPE_CHECKING:
    from django_poolkit.pools.postgres.connection import PoolConnection

Asked = Literal["position", "writes", "nothing"]
"""What is to be known of a commit: where it ended, or only whether it has written anything."""

# What only says whether a function may be called cannot fail, and so spoil the transaction.
_PROOF: Final = (
    b"SELECT coalesce(pg_catalog.has_function_privilege(pg_catalog.to_regprocedure("
    b"'pg_catalog.pg_current_xact_id_if_assigned()'), 'EXECUTE'), false)"
)
# Assigned by the first write, or lock of a row: what only read has none.
_WROTE: Final = b"SELECT pg_catalog.pg_current_xact_id_if_assigned() IS NOT NULL"
_COMMIT: Final = b"COMMIT"
# Of a connection that says so for the first time. It is no other server's later.
_POSITION: Final = b"SELECT %s" % WRITTEN
_POSITION_OF_SERVER: Final = b"SELECT %s, %s FROM %s" % (WRITTEN, SERVER, SERVER_FROM)


@dataclass(frozen=True, slots=True)
class Commit:
    """What became of a transaction that may have written."""

    wrote: bool | None
    """Whether it has written and is committed. None: the connection was lost before it said so."""
    position: Position | None = None
    """Where the server was after it, None where that was not asked or not told."""
    refused: str | None = None
    """The SQLSTATE with which the server refused to tell; empty where it was not heard."""


class Listener(Protocol):
    """Is asked what is to be known of commits, and told."""

    knows_writes: bool | None
    """Whether the server can be asked if a transaction has written; None until it is known."""

    def ask(self, lease: Lease) -> Asked: ...
    def tell(self, lease: Lease, commit: Commit) -> None: ...


Steps = Generator[Any, Any, None]


def steps(connection: PoolConnection, lease: Lease, listener: Listener, plain: Steps) -> Steps:
    """Commit; `plain` are psycopg's own steps, taken where nothing is to be known.

    Raises as those do, and tells the listener what is known whichever way it ends.
    """
    if (
        connection._pipeline
        or connection._tpc
        or connection._num_transactions
        or connection.pgconn.transaction_status != TransactionStatus.INTRANS
        or (asked := listener.ask(lease)) == "nothing"
    ):
        yield from plain
        return
    plain.close()
    if listener.knows_writes is None:
        [found] = yield from _results(connection, _PROOF)
        listener.knows_writes = found.get_value(0, 0) == b"t"
    commit: Commit | None = Commit(None)
    try:
        commit = yield from _committed(connection, _message(connection, listener, asked))
        lease.committed, lease.wrote = lease.committed or bool(commit.wrote), False
    except psycopg.Error:
        if connection.pgconn.transaction_status != TransactionStatus.UNKNOWN:
            commit = None  # the server has refused it
        raise
    finally:
        if commit is not None and commit.wrote is not False:
            listener.tell(lease, commit)


class _Message(NamedTuple):
    statements: tuple[bytes, ...]
    place: int
    """Of the COMMIT among them."""


def _message(connection: PoolConnection, listener: Listener, asked: Asked) -> _Message:
    before = (_WROTE,) if listener.knows_writes else ()
    after: tuple[bytes, ...] = ()
    if asked == "position":
        after = (_POSITION if connection._server else _POSITION_OF_SERVER,)
    return _Message((*before, _COMMIT, *after), len(before))


def _committed(connection: PoolConnection, message: _Message) -> Generator[Any, Any, Commit]:
    """Send the message; return what is known once the COMMIT has been done. Raises where not."""
    results: list[PGresult] = []
    lost: psycopg.Error | None = None
    try:
        yield from _send(connection, b"; ".join(message.statements), results)
    except psycopg.Error as error:
        lost = error
    for result in results[: message.place + 1]:
        _check(connection, result)
    if len(results) <= message.place:
        raise lost or psycopg.OperationalError("the server did not answer the COMMIT")
    if results[message.place].command_status == b"ROLLBACK":
        return Commit(False)
    if message.place and results[0].get_value(0, 0) != b"t":
        return Commit(False)
    if len(message.statements) == message.place + 1:
        return Commit(True)
    return _told(connection, results[message.place + 1 :])


def _told(connection: PoolConnection, answer: list[PGresult]) -> Commit:
    if not answer or answer[0].status != ExecStatus.TUPLES_OK:
        state = answer[0].error_field(DiagnosticField.SQLSTATE) if answer else None
        return Commit(True, refused=(state or b"").decode())
    row = [answer[0].get_value(0, column) for column in range(answer[0].nfields)]
    server = connection._server or server_of(row[2:])
    if not connection._shared:  # behind a pooler the next commit may be on another server
        connection._server = server
    return Commit(True, written_at(server, row[:2]))


def _results(connection: PoolConnection, statement: bytes) -> Generator[Any, Any, list[PGresult]]:
    results: list[PGresult] = []
    yield from _send(connection, statement, results)
    for result in results:
        _check(connection, result)
    return results


def _send(connection: PoolConnection, text: bytes, results: list[PGresult]) -> Steps:
    """Send a text, and take down its results as they come: an error keeps those before it."""
    pgconn = connection.pgconn
    pgconn.send_query(text)
    yield from generators.send(pgconn)
    while (result := (yield from generators.fetch(pgconn))) is not None:
        results.append(result)


def _check(connection: PoolConnection, result: PGresult) -> None:
    if result.status == ExecStatus.FATAL_ERROR:
        raise psycopg.errors.error_from_result(result, encoding=connection.pgconn._encoding)

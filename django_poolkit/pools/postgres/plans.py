"""Prepared statements that survive a rollback, and tables that are altered behind their back.

psycopg drops all of a connection's prepared statements at each rollback, since what they were
prepared for may have been created in the transaction. Of that, only those that were prepared in
it are in danger: the others stay.

PostgreSQL refuses a prepared statement for ever of which the result has got other columns ("cached
plan must not change result type"), and one of which a type is gone. Where nothing is lost by it,
such a statement is forgotten and run once more, so that nobody notices. One failure is news for
all connections of the pool: each forgets what it has prepared before its next statement.
"""

from __future__ import annotations

import logging
from collections.abc import Generator
from typing import Any, Final

import psycopg
from psycopg._preparing import Key, Prepare, PrepareManager
from psycopg.pq import ExecStatus, TransactionStatus

from django_poolkit.pools.postgres.errors import StalePlan

logger = logging.getLogger("django_poolkit.pool")

_IDLE: Final = TransactionStatus.IDLE
_INERROR: Final = TransactionStatus.INERROR
_DONE: Final = ExecStatus.COMMAND_OK
# What a procedure has committed would be done twice.
_COMMITS: Final = (b"CALL", b"DO")
_NO: Final = (Prepare.NO, b"")
# The tags of what psycopg takes for a reason to drop everything, but the first.
_UNDOES: Final = b"ROLLBACK"
_ALTERS: Final = (b"DROP", b"ALTER", b"DISCARD ALL", b"DEALLOCATE ALL")
_LOOKED_AT: Final = (_UNDOES, b"DROP", b"ALTER", b"DISCARD", b"DEALLOCATE")


class Plans:
    """What the connections of one pool tell each other of prepared statements."""

    def __init__(self, name: str, prepared_max: int = PrepareManager.prepared_max) -> None:
        self._name = name
        self.prepared_max = prepared_max
        # Written by whoever fails, read by all: each writes another object, so that no lock is
        # needed, and two at once are one too many at worst.
        self.epoch = object()
        self.healed = 0
        """Statements that were run once more, and nobody noticed; two at once may count as one."""

    def outdate(self) -> None:
        """Have each connection forget what it has prepared before its next statement."""
        self.epoch = object()
        logger.info("pool=%s event=replan", self._name)


class Prepared(PrepareManager):
    """What is prepared on one connection. Used by the one thread that has leased it."""

    def __init__(self, plans: Plans, pgconn: Any) -> None:
        super().__init__()
        self.plans = plans
        self.prepared_max = plans.prepared_max
        self.first = False
        """Whether the statement that is about to run begins a transaction. Read once."""
        self._epoch = plans.epoch
        self._pgconn = pgconn
        self._young: list[Key] = []  # prepared in the present transaction

    def begin(self) -> None:
        """Take note that a transaction begins, and so that an earlier one was committed."""
        self._young.clear()

    def get(self, query: Any, prepare: bool | None = None) -> tuple[Prepare, bytes]:
        """Return whether a statement is prepared, or should be, and under which name."""
        if self._epoch is not self.plans.epoch:
            self.renew()
        if self._to_flush and None in self._to_flush:
            return _NO  # a DEALLOCATE ALL is about to be sent, and would hit what is new
        found = super().get(query, prepare)
        if found[0] is Prepare.SHOULD:
            if self._pgconn.transaction_status == _IDLE:
                self._young.clear()
            else:
                self._young.append(self.key(query))
                if len(self._young) > 2 * self.prepared_max:  # of a transaction without end
                    self._young = [key for key in self._young if key in self._names]
        return found

    def maybe_add_to_cache(self, query: Any, prep: Prepare, name: bytes) -> Key | None:
        """Count a statement; return its key if its result is to be looked at.

        psycopg looks at that of a new one alone, as if a second ROLLBACK TO undid nothing, and
        drops what is too much alone where there is a new one.
        """
        key = super().maybe_add_to_cache(query, prep, name)
        if key is None and prep is Prepare.SHOULD:
            self._rotate()
        if key is None and query.query[:10].upper().startswith(_LOOKED_AT):
            return self.key(query)
        return key

    def renew(self) -> None:
        """Forget all that was prepared, here and on the server."""
        self._epoch = self.plans.epoch
        self._young.clear()
        super().clear()

    def clear(self) -> bool:
        """Forget what was prepared in a transaction that has been rolled back.

        psycopg calls it for all, and has them deallocated.
        """
        for key in self._young:
            if (name := self._names.pop(key, None)) is not None:
                self._to_flush.append(name)
                self._counts[key] = self.prepare_threshold or 0  # so that it comes back at once
        self._young.clear()
        return bool(self._to_flush)

    def _should_discard(self, prep: Prepare, results: Any, *args: Any) -> bool:
        """Forget what a statement has made invalid, by its effect or as a rollback."""
        for result in results:
            tag = result.command_status if result.status == _DONE else None
            if tag and tag.startswith(_UNDOES):
                self.clear()
            elif tag and tag.startswith(_ALTERS):
                self.renew()
                return True
        return False

    def outdate(self) -> None:
        """Forget everything here, and have the other connections of the pool do so."""
        self.plans.outdate()
        self.renew()

    def outlived(self, query: Any, error: psycopg.Error) -> bool:
        """Return whether a statement failed for no other reason than that it was prepared."""
        if self.key(query) not in self._names:
            return False
        return is_stale(error)


def is_stale(error: psycopg.Error) -> bool:
    """Return whether an error says of a prepared statement that what it was made for is gone."""
    if error.sqlstate == "0A000":  # its text is translated, the name of the function is not
        return error.diag.source_function == "RevalidateCachedQuery"
    if error.sqlstate == "XX000":  # PostgreSQL does not translate its internal errors
        return (error.diag.message_primary or "").startswith("cache lookup failed for")
    return error.sqlstate == "26000"  # it has been deallocated, by a text that nobody saw


class PreparingCursor:
    """What a cursor has in front of its own where statements are prepared."""

    __slots__ = ()
    _conn: Any

    def _execute_gen(self, *args: Any, **kwargs: Any) -> Any:
        connection = self._conn
        if connection._plans is not None:
            connection._plans.first = connection.pgconn.transaction_status == _IDLE
        return super()._execute_gen(*args, **kwargs)  # type: ignore[misc]

    def _maybe_prepare_gen(
        self, pgq: Any, *, prepare: bool | None = None, binary: bool | None = None
    ) -> Generator[Any, Any, None]:
        connection = self._conn
        prepared: Prepared | None = connection._plans
        first = prepared is not None and prepared.first
        if prepared is not None:
            prepared.first = False
        try:
            yield from super()._maybe_prepare_gen(pgq, prepare=prepare, binary=binary)  # type: ignore[misc]
            return
        except psycopg.Error as error:
            if prepared is None or not prepared.outlived(pgq, error):
                raise
            prepared.outdate()
            status = connection.pgconn.transaction_status
            commits = pgq.query.lstrip()[:4].upper().startswith(_COMMITS)
            if commits or not can_repeat(connection, first):
                raise stale(error) from error
        if status == _INERROR:
            yield from connection._exec_command(b"ROLLBACK")
            yield from connection._start_query()
        prepared.plans.healed += 1
        yield from super()._maybe_prepare_gen(pgq, prepare=prepare, binary=binary)  # type: ignore[misc]

    def executemany(self, query: Any, params_seq: Any, *, returning: bool = False) -> None:
        """Run a statement for many parameters, as psycopg does: in one transaction."""
        try:
            super().executemany(query, params_seq, returning=returning)  # type: ignore[misc]
            return
        except psycopg.Error as error:
            healing = heal_many(self._conn, params_seq, error)
        healing.healed += 1
        super().executemany(query, params_seq, returning=returning)  # type: ignore[misc]


def heal_many(connection: Any, params_seq: Any, error: psycopg.Error) -> Plans:
    """Return the plans if an `executemany()` that failed is to be run once more; else raise."""
    prepared: Prepared | None = connection._plans
    if prepared is None or not is_stale(error):
        raise error
    prepared.outdate()
    # An iterator has been used up by now.
    if not isinstance(params_seq, list | tuple) or not can_repeat(connection, False):
        raise stale(error) from error
    return prepared.plans


def can_repeat(connection: Any, first: bool) -> bool:
    """Return whether nothing is lost by running the statement that has failed once more."""
    if connection._pipeline:
        return False
    status = connection.pgconn.transaction_status
    # Of a transaction in which nothing has been done, nothing is lost either.
    begun = first and not (
        connection._autocommit or connection._num_transactions or connection._tpc
    )
    return status == _IDLE or (status == _INERROR and begun)


def stale(error: psycopg.Error) -> StalePlan:
    """Return the error for whoever was in a transaction that cannot go on."""
    found = StalePlan(
        "what a prepared statement reads has been altered since, and this transaction cannot go "
        f"on: roll back and run it again ({error.diag.message_primary})"
    )
    found.sqlstate = error.sqlstate
    return found

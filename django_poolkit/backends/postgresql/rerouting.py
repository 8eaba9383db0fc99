"""A read that fails since its server does: made again on another one, within the same statement.

Only what nobody has seen anything of: by a cursor of the client's, which has all rows or none, in
autocommit, without session state, and only what does no more than read. Django's cursor is the
same one before and after; what changes is the psycopg cursor within.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

import psycopg
from django.db import connections
from django.db.backends import utils
from django.db.utils import Error

from django_poolkit.backends import ports
from django_poolkit.backends.postgresql.failing import Failure, failure_of
from django_poolkit.backends.postgresql.hosts import Search
from django_poolkit.backends.postgresql.leasing import LeasingMixin
from django_poolkit.backends.postgresql.pooling import Twins
from django_poolkit.pools.lease import Lease

if TYPE_CHECKING:
    _Base = utils.CursorWrapper
else:
    _Base = object

logger = logging.getLogger("django_poolkit.pool")

# Connections that may break under one statement: it may be what they break of.
_MOST_BREAKS: Final = 2


class _Trip:
    """Where a read has been, and where it is."""

    __slots__ = ("aliases", "breaks", "search", "wrapper")

    def __init__(self, wrapper: LeasingMixin, seconds: float) -> None:
        self.wrapper = wrapper
        self.search = Search(seconds)
        self.aliases = {wrapper.alias}
        self.breaks = 0


class _Rerouting(_Base):
    def _execute(self, sql: Any, params: Any, *ignored: Any) -> Any:
        trip: _Trip | None = None
        while True:
            try:
                return super()._execute(sql, params, *ignored)  # type: ignore[misc]
            except Error as error:
                trip = _moved(self, sql, error, trip)
                if trip is None:
                    raise


class ReroutingCursor(_Rerouting, utils.CursorWrapper):
    """Django's cursor, of an alias whose reads may be made elsewhere."""


class ReroutingDebugCursor(_Rerouting, utils.CursorDebugWrapper):
    """The same where queries are logged: one query is one entry, wherever it was made."""


def _moved(cursor: Any, sql: Any, error: Error, trip: _Trip | None) -> _Trip | None:
    """Move a cursor on which a read has failed to another server; return None if it must stay."""
    wrapper: LeasingMixin = cursor.db if trip is None else trip.wrapper
    raw = cursor.cursor
    lease: Lease | None = getattr(raw, "_poolkit_lease", None)
    if lease is None or not (wrapper._reroutes or wrapper._repeats):
        return None
    if (failure := failure_of(raw._conn, error.__cause__)) is None:
        return None
    if trip is None and lease.alias not in (None, wrapper.alias):
        wrapper = connections[lease.alias]  # type: ignore[assignment]  # it got no connection here
    pool, host = lease.pool, wrapper._host
    if failure == "broken" and ports.note_broken is not None:
        ports.note_broken(wrapper.alias, host, pool)  # type: ignore[arg-type]
    if not _may_move(wrapper, raw, lease, sql):
        return None
    if trip is None:
        trip = _Trip(wrapper, pool.timeout)  # type: ignore[attr-defined]
        trip.aliases.add(cursor.db.alias)
    trip.search.been.add(wrapper.alias if host is None else f"{wrapper.alias}/{host}")
    trip.breaks += failure == "broken"
    if trip.breaks >= _MOST_BREAKS:
        return None
    if _on_its_way(cursor, wrapper, lease, failure, trip):
        _note_retry(pool, failure, cursor.cursor)
        return trip
    return trip if failure == "broken" and _once_more(cursor, wrapper, lease, sql) else None


def _may_move(wrapper: LeasingMixin, raw: Any, lease: Lease, sql: Any) -> bool:
    connection = raw._conn
    return bool(
        wrapper.autocommit
        and not hasattr(raw, "_declare_gen")  # the server has it, and may have given rows
        and lease.dirty is None
        and lease.pinned is None
        and not wrapper._by_hand
        and not (connection._pipeline or connection._num_transactions or connection._tpc)
        and lease.pool.statements.only_reads(sql)
    )


def _on_its_way(
    cursor: Any, wrapper: LeasingMixin, lease: Lease, failure: Failure, trip: _Trip
) -> bool:
    """Open a psycopg cursor on another server, and put it into Django's. Return whether it is."""
    shared = wrapper.allow_thread_sharing
    by_statement = lease.keeper is not None
    # What else is open on the lease is not to be lost by this, unless it is already.
    in_use = lease.cursors - len(lease.gone) > 1 if by_statement else lease.holds > 0
    alone = not shared and not (in_use and (by_statement or failure == "conflict"))
    cursor.cursor.close()  # in transaction mode, this ends the lease
    several = isinstance(wrapper._found(), Twins)
    if alone and not by_statement and (several or failure == "broken"):
        wrapper.close()
    if alone and several and _entered(cursor, wrapper, trip):
        return True
    find = ports.another_alias
    while (
        find is not None
        and trip.search.left()
        and (alias := find(wrapper.alias, trip.aliases, cursor)) is not None
    ):
        trip.aliases.add(alias)
        other: Any = connections[alias]
        if _alike(wrapper, other) and _entered(cursor, other, trip):
            return True
    return False


def _once_more(cursor: Any, wrapper: LeasingMixin, lease: Lease, sql: Any) -> bool:
    """Open a psycopg cursor on another connection of the same wrapper, where its pool wants that.

    Return whether it is open. `_on_its_way()` has ended the lease, if nothing else was open on it.
    """
    ended = wrapper._lease is not lease
    if not (wrapper._repeats and ended and lease.pool.statements.may_repeat(sql)):
        return False
    raw = opened(wrapper, None, None)
    if raw is None:
        return False
    cursor.cursor = raw
    lease.pool.count_repeat("statement")  # type: ignore[attr-defined]
    logger.warning("pool=%s event=read_repeated reason=broken", lease.pool.name)
    return True


def _alike(wrapper: LeasingMixin, other: Any) -> bool:
    """Return whether rows of another alias are read as those of a wrapper are."""
    return (
        isinstance(other, LeasingMixin)
        and other.timezone_name == wrapper.timezone_name
        and other._binds_on_the_server() == wrapper._binds_on_the_server()
        and not other.needs_rollback
    )


def _entered(cursor: Any, wrapper: Any, trip: _Trip) -> bool:
    raw = opened(wrapper, None, trip.search)
    if raw is None:
        return False
    cursor.cursor, trip.wrapper = raw, wrapper
    return True


def opened(wrapper: Any, name: str | None, search: Search | None) -> Any:
    """Return a psycopg cursor of a wrapper, None where it gives none."""
    wrapper._search, wrapper._steady = search, None
    try:
        return wrapper._cursor(name).cursor
    except (Error, psycopg.Error):
        return None
    finally:
        wrapper._search = None


def cursor_elsewhere(wrapper: Any, alias: str | None, name: str | None) -> Any:
    """Return Django's cursor of a wrapper that gets no connection, open on another alias.

    On `alias`, or on the next that there is. Where none gives a connection either, the wrapper's
    own server is waited for. Raises as any cursor of it.
    """
    pool = wrapper.pool
    search, been = Search(pool.timeout), {wrapper.alias}
    find = ports.another_alias
    while alias is not None and search.left():
        been.add(alias)
        other: Any = connections[alias]
        raw = opened(other, name, search) if _alike(wrapper, other) else None
        if raw is not None:
            _note_retry(pool, "refused", raw)
            kind = ReroutingDebugCursor if wrapper.queries_logged else ReroutingCursor
            return kind(raw, wrapper)
        alias = None if find is None else find(wrapper.alias, been, wrapper)
    wrapper._reroutes = False
    try:
        return wrapper._cursor(name)
    finally:
        wrapper._reroutes = True


def _note_retry(pool: Any, reason: str, raw: Any) -> None:
    pool.count_retry(reason)
    to = raw._poolkit_lease.pool.name
    logger.warning("pool=%s event=read_retried reason=%s on=%s", pool.name, reason, to)

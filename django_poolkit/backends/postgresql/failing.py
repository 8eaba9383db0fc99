"""Why a statement failed, where it is not the statement's own fault."""

from __future__ import annotations

from _thread import get_ident
from typing import Any, Final, Literal, NamedTuple, cast

import psycopg
from psycopg.pq import ConnStatus

from django_poolkit.pools.lease import Lease
from django_poolkit.pools.postgres import ConnectionPool
from django_poolkit.pools.postgres.connection import KILLED

Failure = Literal["conflict", "broken"]
"""Why a read failed: what it read was in the way of somebody else; its connection was lost."""

# A replica's replay cancels who reads what it has to remove. A primary does so to transactions
# that cannot be had one after the other.
_CONFLICT: Final = "40001"
# The server shuts down, crashes, cannot be connected to, or drops the database.
_GONE: Final = frozenset({"57P01", "57P02", "57P03", "57P04"})


def failure_of(connection: Any, cause: object) -> Failure | None:
    """Return what has failed, None where it is the statement, or somebody wanted it to fail.

    `cause` is what psycopg raised on a connection of a pool.
    """
    if not isinstance(cause, psycopg.OperationalError) or connection._generation == KILLED:
        return None
    state = cause.sqlstate
    if state is None:
        return "broken" if connection.pgconn.status != ConnStatus.OK else None
    if state == _CONFLICT:
        return "conflict"
    return "broken" if state in _GONE or state.startswith("08") else None


class Failed(NamedTuple):
    """What failed under a lease of a database wrapper."""

    pool: ConnectionPool
    reason: Failure
    keeps_state: bool
    """Whether its session has state that another one has not."""


def look(wrapper: Any, error: BaseException) -> Failed | None:
    """Return what failed as a database wrapper was used, None where that is nobody's loss."""
    lease: Lease | None = getattr(wrapper, "_lease", None)
    if lease is None or (connection := lease._connection) is None:
        return None
    reason = failure_of(connection, error)
    if reason is None and isinstance(error, psycopg.errors.DeadlockDetected):
        reason = "conflict"
    if reason is None:
        return None
    kept = lease.dirty is not None or lease.pinned is not None or wrapper._by_hand
    return Failed(cast(ConnectionPool, lease.pool), reason, kept)


def in_transaction(wrapper: Any) -> bool:
    """Return whether a database wrapper has a block open, or no autocommit. Takes no lease."""
    opened = getattr(wrapper, "_opened", False) or getattr(wrapper, "_raw", None) is not None
    return bool(wrapper.in_atomic_block or (opened and not wrapper.autocommit))


def let_go(wrapper: Any) -> None:
    """Have a wrapper that still has a broken connection, as in session mode, take another one.

    Does nothing to one of another thread, or of a call in the bridge, which lets go by itself.
    """
    lease: Lease | None = wrapper._lease
    own = wrapper._thread_ident == get_ident() and not wrapper._bridged
    if own and lease is not None and not wrapper.in_atomic_block:
        wrapper.close()

"""A write that a replica has refused, made once more on the primary: where its caller allows that.

It is refused before it does anything. But what has led to it may not be the same any more: so
only its caller knows whether it may be made again.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from django.db import InternalError
from django.db.backends import utils
from psycopg.errors import ReadOnlySqlTransaction

from django_poolkit.backends.postgresql.rerouting import opened
from django_poolkit.pools.lease import Lease

if TYPE_CHECKING:
    _Base = utils.CursorWrapper
else:
    _Base = object

logger = logging.getLogger("django_poolkit.pool")

_STANDBY: Final = b"in_hot_standby"


class _Repeating(_Base):
    def _execute(self, sql: Any, params: Any, *ignored: Any) -> Any:
        try:
            return super()._execute(sql, params, *ignored)  # type: ignore[misc]
        except InternalError as error:
            if not isinstance(error.__cause__, ReadOnlySqlTransaction) or not _moved(self):
                raise
        return super()._execute(sql, params, *ignored)  # type: ignore[misc]


class RepeatingCursor(_Repeating, utils.CursorWrapper):
    """Django's cursor within `idempotent()`."""


class RepeatingDebugCursor(_Repeating, utils.CursorDebugWrapper):
    """The same where queries are logged."""


def _moved(cursor: Any) -> bool:
    """Move a cursor to another connection; return whether that leads to no replica."""
    wrapper, raw = cursor.db, cursor.cursor
    lease: Lease | None = getattr(raw, "_poolkit_lease", None)
    if lease is None or not wrapper.autocommit or wrapper.in_atomic_block:
        return False
    if lease.dirty is not None or lease.pinned is not None or wrapper._by_hand:
        return False  # what the session has would be missing
    by_statement = lease.keeper is not None
    alone = lease.cursors - len(lease.gone) <= 1 if by_statement else lease.holds == 0
    if not alone or wrapper.allow_thread_sharing:
        return False
    raw.close()  # in transaction mode, this ends the lease
    if not by_statement:
        wrapper.close()
    # As it was refused the pool's connections were replaced: this one is new, and tells its role.
    other = opened(wrapper, None, None)
    if other is None:
        return False
    cursor.cursor = other
    if other._conn.pgconn.parameter_status(_STANDBY) == b"on":
        return False
    logger.warning("pool=%s event=write_repeated reason=standby", lease.pool.name)
    return True

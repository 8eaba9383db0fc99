"""Statements that the connection keeps prepared, run under a lease.

`connection.prepare()` has the server prepare anew each time, and a release ask it whether one still
runs. These come from asyncpg's own cache, which outlasts leases, and are run by nobody else.
"""

from __future__ import annotations

from typing import Any

import asyncpg

from django_poolkit.pools.asyncpg.connection import LeasedConnection, run_noted
from django_poolkit.pools.asyncpg.lease import AsyncpgLease


class CachedStatement:
    """A statement that was prepared in this lease of its connection, or an earlier one."""

    __slots__ = ("_connection", "_lease", "_statement")

    def __init__(self, lease: AsyncpgLease, connection: Any, statement: Any) -> None:
        self._lease = lease
        self._connection = connection
        self._statement = statement

    def get_attributes(self) -> Any:
        """Return a description of the columns, as asyncpg does."""
        return self._statement.get_attributes()

    def get_statusmsg(self) -> Any:
        """Return the status of what was run last, as asyncpg does."""
        return self._statement.get_statusmsg()

    async def fetch(self, *args: Any) -> Any:
        """Run it and return all rows. Raises LeaseReleased, WrongLoop, asyncpg's errors."""
        self._connection._used("fetch")
        try:
            return await run_noted(self._lease, False, self._statement.fetch, *args)
        except asyncpg.InvalidCachedStatementError:
            # As asyncpg does where it keeps statements itself (0.32, connection.py,
            # `_do_execute`): what the others have prepared is void for the same reason.
            self._connection._drop_global_statement_cache()
            raise

    def cursor(self, *args: Any) -> Any:
        """Return a cursor, as asyncpg does, to be awaited or iterated over."""
        self._connection._used("cursor")
        self._lease.later = True
        return self._statement.cursor(*args)


async def cached(connection: LeasedConnection, query: str) -> CachedStatement:
    """Return a statement, prepared unless the connection has it already.

    Raises LeaseReleased, WrongLoop, asyncpg's errors.
    """
    lease = connection._used("prepare")
    lease.note(query)
    raw: Any = connection._con
    statement = await run_noted(lease, False, raw._prepare, query, use_cache=True)
    return CachedStatement(lease, connection, statement)

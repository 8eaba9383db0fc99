"""SQLAlchemy's dialect of psycopg on leased connections: `postgresql+poolkit:///default`.

The name of the database is an alias of `DATABASES`, and nothing else stands in the URL: who one is,
where the server is and how the pool is made are settings. SQLAlchemy's own pool does not pool: its
checkout is an acquire, its return a release. All that it does to a connection in between, in Python
or by a marked statement, is undone by that.
"""

from __future__ import annotations

from typing import Any, cast

import psycopg
import sqlalchemy
from sqlalchemy import URL, event, exc
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.pool import NullPool, Pool

from django_poolkit.contrib.sqlalchemy.leases import mark
from django_poolkit.pools.postgres import ConnectionPool
from django_poolkit.pools.postgres.connection import KILLED, PoolConnection
from django_poolkit.registry import connection_pools

if sqlalchemy.__version__ < "2.1":
    # What was cancelled, or failed in a `connect` event, 2.0 drops without giving it back.
    raise ImportError(
        "django_poolkit.contrib.sqlalchemy needs SQLAlchemy 2.1: "
        "pip install django-poolkit[sqlalchemy]"
    )


class LeasePool(NullPool):
    """SQLAlchemy's side of a pool that is not its own: holds nothing, and closes nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        event.listen(self, "detach", _never_again)

    def status(self) -> str:
        """Return where to look."""
        return "The connections are leases of django_poolkit: ask `manage.py poolstatus`"


def _never_again(connection: Any, record: object) -> None:
    # What has been detached is to be closed by its owner, and not to be lent again.
    if isinstance(connection, PoolConnection):
        connection._generation = KILLED


def alias_of(url: URL, options: dict[str, Any]) -> str:
    """Return the alias that a URL names. Raises ArgumentError for all else that stands there."""
    if url.host or url.port or url.username or url.password or url.query:
        raise exc.ArgumentError(
            f"{url.drivername}:///alias names an alias of DATABASES and nothing else: host, user, "
            "password and options stand in the settings"
        )
    for name in options:
        raise exc.ArgumentError(
            f"{name} is about connections that django_poolkit makes: set it in DATABASES"
            f"[{url.database or 'default'!r}]['OPTIONS']"
        )
    return url.database or "default"


class PsycopgDialect(PGDialect_psycopg):
    """psycopg's dialect, whose statements tell the pool which ones SQLAlchemy wrote."""

    supports_statement_cache = True

    def do_execute(self, cursor: Any, statement: Any, parameters: Any, context: Any = None) -> None:
        """Execute a statement."""
        own = _composed(cursor, context)
        cursor.execute(statement, parameters)
        if own:
            cursor._poolkit_lease.foreign = False

    def do_executemany(
        self, cursor: Any, statement: Any, parameters: Any, context: Any = None
    ) -> None:
        """Execute a statement with many sets of parameters."""
        own = _composed(cursor, context)
        cursor.executemany(statement, parameters)
        if own:
            cursor._poolkit_lease.foreign = False


def _composed(cursor: Any, context: Any) -> bool:
    """Return whether SQLAlchemy wrote a statement, and no project before it in this lease.

    One of its own leaves no more behind than its text shows, as one of Django's ORM: it is no cause
    for a reset with `reset="request"`.
    """
    lease = getattr(cursor, "_poolkit_lease", None)
    compiled = None if context is None else context.compiled
    return (
        lease is not None
        and not lease.foreign
        and compiled is not None
        and not context.isddl
        and not compiled.isplaintext
    )


class PooledDialect(PsycopgDialect):
    """psycopg's dialect, with connections of `connection_pools`."""

    supports_statement_cache = True

    @classmethod
    def get_pool_class(cls, url: URL) -> type[Pool]:
        """Return the one that does not pool."""
        return LeasePool

    @classmethod
    def get_async_dialect_cls(cls, url: URL) -> Any:
        """Return the dialect of `create_async_engine()` for the same URL: asyncpg's."""
        from django_poolkit.contrib.sqlalchemy.async_dialect import AsyncPooledDialect

        return AsyncPooledDialect

    def create_connect_args(self, url: URL) -> Any:
        """Return the alias, and what it is to be adapted by."""
        options = {} if self.client_encoding is None else {"client_encoding": None}
        return [alias_of(url, options)], {"context": self._psycopg_adapters_map}

    def connect(self, *cargs: Any, **cparams: Any) -> Any:
        """Acquire a connection. Raises psycopg.Error, which SQLAlchemy knows; ArgumentError."""
        (alias,), context = cargs, cparams.pop("context", None)
        for name in cparams:
            raise exc.ArgumentError(
                f"connect_args[{name!r}]: the connections of {alias!r} are made from DATABASES"
                f"[{alias!r}]; write it into OPTIONS there"
            )
        connection = pool_of(alias).getconn()
        try:
            mark(cast(Any, connection._owned_lease), alias)
            # Django's bind in the client, and load by its own rules.
            connection.cursor_factory = psycopg.Cursor
            connection.server_cursor_factory = psycopg.ServerCursor
            if context is not None:
                connection.adapt_by(context)
            connection.autocommit = False
        except BaseException:
            self.do_terminate(connection)
            raise
        return connection

    def do_close(self, dbapi_connection: Any) -> None:
        """Release a connection."""
        if dbapi_connection._owned_lease is not None:  # or the pool has taken it back
            dbapi_connection._pool.putconn(dbapi_connection)

    def do_terminate(self, dbapi_connection: Any) -> None:
        """Give back a connection that is not to be used again."""
        dbapi_connection._generation = KILLED
        self.do_close(dbapi_connection)


def pool_of(alias: str) -> ConnectionPool:
    """Return the pool of an alias, or of a host of it. Raises ArgumentError where there is none."""
    try:
        return connection_pools[alias]
    except KeyError as error:
        raise exc.ArgumentError(error.args[0]) from None

"""One transaction for Django and SQLAlchemy: the latter works on the former's connection.

What SQLAlchemy takes for its transaction is a savepoint in Django's: its COMMIT releases that, its
ROLLBACK goes back to it, and whether anything stays in the end is said by `atomic()` alone.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import psycopg
import sqlalchemy
from django.db import connections
from django.db.transaction import TransactionManagementError
from psycopg.adapt import AdaptersMap
from psycopg.rows import tuple_row
from sqlalchemy import URL, Connection, Engine, exc
from sqlalchemy.dialects import registry
from sqlalchemy.pool import NullPool, Pool

from django_poolkit.contrib.sqlalchemy.dialect import PsycopgDialect, alias_of
from django_poolkit.pools.postgres.connection import PoolConnection
from django_poolkit.pools.postgres.leased_cursor import leased

registry.register("postgresql.poolkit_shared", __name__, "SharedDialect")
_number: Final = itertools.count(1).__next__


@contextmanager
def shared_connection(alias: str = "default") -> Iterator[Connection]:
    """Yield a SQLAlchemy connection in the transaction of Django's present `atomic()` block.

    For `connection.execute()`, or `Session(bind=connection)`. At the end of the `with` block what
    is not committed yet is: to Django's transaction, which decides in the end. An exception takes
    back what SQLAlchemy did since its last commit. Use it in the thread of the block, and for no
    longer. Raises TransactionManagementError outside of `atomic()`, or where that is to be rolled
    back.
    """
    if not connections[alias].in_atomic_block:
        raise TransactionManagementError(
            f"shared_connection({alias!r}) takes part in a transaction of Django's, and there is "
            f"none: use it inside `with transaction.atomic(using={alias!r})`"
        )
    with _engine(alias).connect() as connection:
        yield connection
        if connection.in_transaction():
            connection.commit()


@functools.cache
def _engine(alias: str) -> Engine:
    return sqlalchemy.create_engine(URL.create("postgresql+poolkit_shared", database=alias))


class SharedDialect(PsycopgDialect):
    """psycopg's dialect, on the connection that Django has at the moment."""

    supports_statement_cache = True

    def __init__(self, **kwargs: Any) -> None:
        # Native hstore would be registered with Django's connection.
        super().__init__(use_native_hstore=False, **kwargs)  # type: ignore[no-untyped-call]

    @classmethod
    def get_pool_class(cls, url: URL) -> type[Pool]:
        """Return the one that does not pool."""
        return NullPool

    def create_connect_args(self, url: URL) -> Any:
        """Return the alias, and what its statements are to be adapted by."""
        return [alias_of(url, {})], {"context": self._psycopg_adapters_map}

    def connect(self, *cargs: Any, **cparams: Any) -> Any:
        """Take part in Django's transaction."""
        return SharedConnection(cargs[0], cparams["context"])

    def do_begin(self, dbapi_connection: Any) -> None:
        """Begin what SQLAlchemy takes for a transaction."""
        dbapi_connection.begin()

    def do_close(self, dbapi_connection: Any) -> None:
        """Leave the connection to Django."""

    def get_driver_connection(self, connection: Any) -> Any:
        """Return psycopg's connection."""
        return connection.raw

    def set_isolation_level(self, dbapi_connection: Any, level: Any) -> None:
        """Refuse."""
        raise exc.InvalidRequestError(
            "the isolation level of a shared connection is that of Django's transaction"
        )

    def do_begin_twophase(self, connection: Any, xid: Any) -> None:
        """Refuse."""
        raise exc.InvalidRequestError(
            "a shared connection is in a transaction of Django's, which has one phase"
        )


class SharedConnection:
    """Django's connection as SQLAlchemy sees it, while one `atomic()` block lasts."""

    autocommit = False

    def __init__(self, alias: str, context: AdaptersMap) -> None:
        wrapper: Any = connections[alias]
        wrapper.validate_no_broken_transaction()
        with wrapper.cursor():
            pass  # in transaction mode, the block may not have a connection yet
        self.raw: Any = wrapper.connection
        self.adapters = AdaptersMap(context)
        """Those of SQLAlchemy; Django's connection has its own."""
        self._wrapper = wrapper
        self._savepoint: str | None = None
        if not isinstance(self.raw, psycopg.Connection):
            raise exc.ArgumentError(
                f"shared_connection({alias!r}) needs psycopg 3, and DATABASES[{alias!r}] has "
                f"another driver: its ENGINE is {wrapper.settings_dict['ENGINE']!r}"
            )

    def begin(self) -> None:
        """Set a savepoint, which `rollback()` goes back to. Raises TransactionManagementError."""
        self._wrapper.validate_no_broken_transaction()
        name = f"poolkit_shared_{_number()}"
        self._run(f"SAVEPOINT {name}")
        self._savepoint = name

    def commit(self) -> None:
        """Leave what was done since `begin()` to Django's transaction."""
        name, self._savepoint = self._savepoint, None
        if name is not None:
            self._run(f"RELEASE SAVEPOINT {name}")

    def rollback(self) -> None:
        """Take back what was done since `begin()`."""
        name, self._savepoint = self._savepoint, None
        if name is not None:
            self._run(f"ROLLBACK TO SAVEPOINT {name}; RELEASE SAVEPOINT {name}")

    def cursor(self, name: str | None = None) -> Any:
        """Return a cursor, which adapts as SQLAlchemy wants it. Raises InterfaceError."""
        raw, factory = self.raw, psycopg.Cursor if name is None else psycopg.ServerCursor
        if self._wrapper.connection is not raw or not self._wrapper.in_atomic_block:
            raise psycopg.InterfaceError(
                "the atomic() block of this shared connection has ended: ask for one in each"
            )
        if isinstance(raw, PoolConnection):
            preparing = raw._plans is not None and name is None
            factory = leased(factory, preparing=preparing)
        args = (raw,) if name is None else (raw, name)
        cursor: Any = factory(*args, row_factory=tuple_row)
        cursor._adapters = AdaptersMap(self.adapters)
        return cursor

    def add_notice_handler(self, handler: object) -> None:
        """Do nothing: notices are Django's."""

    @property
    def info(self) -> Any:
        """What libpq knows of the connection."""
        return self.raw.info

    @property
    def closed(self) -> bool:
        """Whether the connection is lost."""
        return bool(self.raw.closed)

    @property
    def broken(self) -> bool:
        """Whether it is lost without having been closed."""
        return bool(self.raw.broken)

    def _run(self, statement: str) -> None:
        cursor = self.cursor()
        try:
            cursor.execute(statement)
        finally:
            cursor.close()

"""SQLAlchemy's dialect of asyncpg on leased connections.

asyncpg keeps codecs and prepared statements with the connection. Both belong to all who use the
pool here, so SQLAlchemy's own are left out: JSON is sent as text, and read as the pool's codecs
have it; statements come from asyncpg's cache, which outlasts checkouts.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from sqlalchemy import URL, exc, types
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql.asyncpg import (
    AsyncAdapt_asyncpg_connection,
    PGCompiler_asyncpg,
    PGDialect_asyncpg,
)
from sqlalchemy.pool import Pool
from sqlalchemy.util import await_only
from sqlalchemy.util.concurrency import in_greenlet

from django_poolkit import asyncpg_pools
from django_poolkit.conf.asyncpg import asyncpg_config
from django_poolkit.contrib.sqlalchemy.dialect import LeasePool, alias_of
from django_poolkit.contrib.sqlalchemy.leases import mark
from django_poolkit.pools.asyncpg.lease import AsyncpgLease
from django_poolkit.pools.asyncpg.statement import cached
from django_poolkit.pools.errors import PoolError


class AsyncCompiler(PGCompiler_asyncpg):
    """Sends JSON as text, past the codecs of the connection: SQLAlchemy has serialized it."""

    def render_bind_cast(self, type_: Any, dbapi_type: Any, sqltext: str) -> str:
        """Return a parameter with the type that it is to be."""
        if isinstance(dbapi_type, types.JSON):
            sqltext = f"{sqltext}::TEXT"
        return super().render_bind_cast(type_, dbapi_type, sqltext)  # type: ignore[no-any-return, no-untyped-call]


class _ReadByCodec(types.JSON):
    """JSON that the pool's codecs read, or leave to the dialect as text."""

    def result_processor(self, dialect: Any, coltype: object) -> Any:
        """Return what makes a value of the text, None where it is one already."""
        if dialect.codecs_read_json:
            return None
        deserialize = dialect._json_deserializer or json.loads
        return lambda text: None if text is None else deserialize(text)


class _JSON(_ReadByCodec, postgresql.JSON):
    pass


class _JSONB(_ReadByCodec, postgresql.JSONB):
    pass


class AsyncPooledDialect(PGDialect_asyncpg):
    """asyncpg's dialect, with connections of `asyncpg_pools`."""

    supports_statement_cache = True
    statement_compiler = AsyncCompiler
    colspecs = PGDialect_asyncpg.colspecs | {
        types.JSON: _JSON, postgresql.JSON: _JSON, postgresql.JSONB: _JSONB,
    }  # fmt: skip
    codecs_read_json = True

    @classmethod
    def get_pool_class(cls, url: URL) -> type[Pool]:
        """Return the one that does not pool."""
        return LeasePool

    def create_connect_args(self, url: URL) -> Any:
        """Return the alias. Raises ArgumentError for what its pool does not let one choose."""
        alias = alias_of(url, {})
        config = asyncpg_config(alias.partition("/")[0])
        self.codecs_read_json = config.codecs == "django"
        if self.codecs_read_json and self._json_deserializer is not None:
            raise exc.ArgumentError(
                "json_deserializer: the pool's codecs read JSON, for all who use it. Set "
                f"POOLKIT['ASYNCPG'][{alias!r}]['CODECS'] to 'asyncpg', and it comes as text"
            )
        return [alias], {}

    def on_connect(self) -> Any:
        """Return what is called with each connection: nothing that sets codecs."""
        return super(PGDialect_asyncpg, self).on_connect()

    def connect(self, *cargs: Any, **cparams: Any) -> Any:
        """Acquire a connection. Raises the dialect's own OperationalError; ArgumentError."""
        (alias,) = cargs
        for name in cparams:
            raise exc.ArgumentError(
                f"connect_args[{name!r}]: the connections of {alias!r} are made from "
                f"POOLKIT['ASYNCPG'][{alias!r}] and DATABASES[{alias!r}]; write it there"
            )
        lease = await_only(self._acquire(alias))
        return AdaptedLease(self.dbapi, lease)

    async def _acquire(self, alias: str) -> AsyncpgLease:
        try:
            pool = asyncpg_pools[alias]
        except KeyError as error:
            raise exc.ArgumentError(error.args[0]) from None
        try:
            lease = await pool.acquire()
        except PoolError as error:
            dbapi: Any = self.dbapi
            raise dbapi.OperationalError(str(error)) from error
        mark(lease, alias)
        return lease


class AdaptedLease(AsyncAdapt_asyncpg_connection):
    """asyncpg's connection as SQLAlchemy's synchronous core sees it, for one lease."""

    __slots__ = ("_lease",)

    def __init__(self, dbapi: Any, lease: AsyncpgLease) -> None:
        super().__init__(dbapi, lease.connection, prepared_statement_cache_size=0)  # type: ignore[no-untyped-call]
        self._lease: AsyncpgLease | None = lease

    async def _prepare(self, operation: Any, invalidate_timestamp: Any) -> Any:
        await self._check_type_cache_invalidation(invalidate_timestamp)  # type: ignore[no-untyped-call]
        connection: Any = self._connection
        statement = await cached(connection, operation)
        return statement, statement.get_attributes()

    def close(self) -> None:
        """Release the lease; end it with its connection where what is open cannot be ended."""
        try:
            self.rollback()  # type: ignore[no-untyped-call]
        except BaseException:
            self.terminate()
            raise
        if (lease := self._taken()) is not None:
            await_only(lease.release())

    def terminate(self) -> None:
        """End the lease with its connection. Also called by a garbage collector, on any thread."""
        self._transaction = None
        lease = self._taken()
        if lease is None:
            return
        if in_greenlet():
            await_only(lease.discard())
        elif asyncio._get_running_loop() is lease.line.loop:
            lease.line.end_and_terminate(lease, "discarded")
        # Elsewhere it is dropped, and its loop is told.

    def _taken(self) -> AsyncpgLease | None:
        """Return the lease for whoever ends it, None where that has been done."""
        lease, self._lease = self._lease, None
        return None if lease is None or lease.released else lease

"""The engines of an alias, for threads and for tasks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import sqlalchemy
from sqlalchemy import URL, Engine, exc
from sqlalchemy.dialects import registry
from sqlalchemy.ext import asyncio
from sqlalchemy.ext.asyncio import AsyncEngine

DRIVER: Final = "postgresql+poolkit"
registry.register(
    "postgresql.poolkit", "django_poolkit.contrib.sqlalchemy.dialect", "PooledDialect"
)

# What would put another pool, or other connections, beside those of the alias.
_TRANSLATED: Final = {
    "pool_size", "max_overflow", "pool_timeout", "pool_recycle", "pool_pre_ping", "connect_args",
}  # fmt: skip
_REFUSED: Final = {
    "pool", "poolclass", "creator", "async_creator", "pool_use_lifo", "module", "client_encoding",
}  # fmt: skip


def create_engine(alias: str = "default", **options: Any) -> Engine:
    """Return an engine whose connections are leases of the pool behind a database alias.

    A lease begins with SQLAlchemy's checkout and ends with its return. `options` are those of
    `sqlalchemy.create_engine()`, but for what makes a pool or connects: that is in `DATABASES`.
    Connects to nothing. Raises ArgumentError for such an option; for an alias that does not exist
    or is not pooled, the first checkout does.
    """
    refuse(options, "create_engine()", f"DATABASES[{alias!r}]['OPTIONS']['pool']")
    return sqlalchemy.create_engine(URL.create(DRIVER, database=alias), **options)


def create_async_engine(alias: str = "default", **options: Any) -> AsyncEngine:
    """Return an asyncio engine whose connections are leases of the alias's asyncpg pool.

    As `create_engine()`; its pool is made from `POOLKIT["ASYNCPG"]`.
    """
    refuse(options, "create_async_engine()", f"POOLKIT['ASYNCPG'][{alias!r}]")
    return asyncio.create_async_engine(URL.create(DRIVER, database=alias), **options)


def refuse(names: Iterable[str], function: str, place: str) -> None:
    """Raise ArgumentError for options that are not an engine's to say, but are in `place`."""
    for name in names:
        if name in _TRANSLATED:
            raise exc.ArgumentError(
                f"{function}: {name} is said in {place}, for all who use that pool; "
                "from_sqlalchemy() translates for DATABASES"
            )
        if name in _REFUSED:
            raise exc.ArgumentError(
                f"{function}: {name} would lead around the pool, which is made from {place}"
            )

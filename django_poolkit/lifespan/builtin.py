"""The resources that come with the kit: pools of `DATABASES`, client sessions of `POOLKIT["HTTP"]`.

They are opened before the resources of the project, and closed after them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from django_poolkit.conf.http import http_names
from django_poolkit.conf.lifespan import LifespanConfig
from django_poolkit.http.sessions import resource as client_session
from django_poolkit.lifespan.base import Resource
from django_poolkit.pools.postgres import ConnectionPool
from django_poolkit.registry import connection_pools


def builtin(config: LifespanConfig) -> list[Resource[Any]]:
    """Return a resource for each pooled alias and each client session. Opens nothing yet."""
    sessions = [
        Resource(name=f"http:{name}", enter=partial(client_session, name)) for name in http_names()
    ]
    return [*_pools(config), *sessions]


def _pools(config: LifespanConfig) -> list[Resource[Any]]:
    if config.pools == "lazy":
        return []
    required = config.pools == "required"
    return [
        Resource(name=f"pool:{alias}", enter=partial(_pool, alias), required=required)
        for alias in connection_pools
    ]


@asynccontextmanager
async def _pool(alias: str) -> AsyncIterator[ConnectionPool]:
    """Show that a pool can connect. All pools are closed together, when nothing uses them."""
    pool = connection_pools[alias]
    await asyncio.to_thread(_connect, pool)
    yield pool


def _connect(pool: ConnectionPool) -> None:
    pool.acquire().release()

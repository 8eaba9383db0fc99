"""The resources that come with the kit: pools of `DATABASES`, of asyncpg, and client sessions.

They are opened before the resources of the project, and closed after them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

from django.db import connections

from django_poolkit.backends.asyncpg.pools import asyncpg_pools
from django_poolkit.conf.http import http_names
from django_poolkit.conf.lifespan import LifespanConfig
from django_poolkit.http.sessions import resource as client_session
from django_poolkit.lifespan.base import Resource
from django_poolkit.pools.postgres import ConnectionPool
from django_poolkit.registry import connection_pools
from django_poolkit.routing import topology
from django_poolkit.routing.monitor import monitor

logger = logging.getLogger("django_poolkit.lifespan")

# Seconds: what a look takes where neither the primary nor any replica answers.
_FIRST_LOOK: Final = 3.0


def builtin(config: LifespanConfig) -> list[Resource[Any]]:
    """Return a resource for each pooled alias and each client session. Opens nothing yet."""
    sessions = [
        Resource(name=f"http:{name}", enter=partial(client_session, name)) for name in http_names()
    ]
    return [*_pools(config), *_asyncpg_pools(config), *_routing(), *sessions]


def _routing() -> list[Resource[Any]]:
    """Return what begins to look at the servers of clusters, if there are any to be looked at."""
    watched = any(each.watch and each.replicas for each in topology.clusters().values())
    return [Resource(name="routing:watch", enter=_watching, required=False)] if watched else []


@asynccontextmanager
async def _watching() -> AsyncIterator[None]:
    """Look at the servers once, so that the first request knows how they are.

    None of them has to be well, and one that does not answer is not waited for long.
    """
    monitor.start()
    await asyncio.to_thread(monitor.looked.wait, _FIRST_LOOK)
    yield
    monitor.close(0.0)


def _asyncpg_pools(config: LifespanConfig) -> list[Resource[Any]]:
    required = config.pools == "required"
    names = list(asyncpg_pools)
    return [
        Resource(
            name=f"asyncpg:{name}",
            enter=partial(_asyncpg_pool, name, connects=config.pools != "lazy"),
            # Of several hosts one is enough.
            required=required and "/" not in name,
        )
        for name in names
    ]


@asynccontextmanager
async def _asyncpg_pool(name: str, *, connects: bool) -> AsyncIterator[Any]:
    """Open a pool on the running event loop, show that it can connect, and close it for good."""
    pool = asyncpg_pools[name]
    await pool.open()
    try:
        if connects:
            await (await pool.acquire()).release()
        yield pool
    finally:
        await pool.close()


def _pools(config: LifespanConfig) -> list[Resource[Any]]:
    if config.pools == "lazy":
        return []
    required = config.pools == "required"
    aliases: dict[str, list[str]] = {}
    for name in connection_pools:
        # An alias with several hosts has a pool for each, called `alias/key`.
        alias = name if name in connections.settings else name.rpartition("/")[0]
        aliases.setdefault(alias, []).append(name)
    return [
        Resource(
            name=f"pool:{alias}",
            enter=partial(_pool, alias) if names == [alias] else partial(_hosts, names),
            required=required,
        )
        for alias, names in aliases.items()
    ]


@asynccontextmanager
async def _hosts(names: list[str]) -> AsyncIterator[dict[str, ConnectionPool]]:
    """Show that the pools of an alias can connect; one that can is enough."""
    pools = {name: connection_pools[name] for name in names}
    connects = [asyncio.to_thread(_connect, pool) for pool in pools.values()]
    outcomes = await asyncio.gather(*connects, return_exceptions=True)
    failed = [each for each in outcomes if isinstance(each, BaseException)]
    for name, outcome in zip(names, outcomes, strict=True):
        if isinstance(outcome, BaseException):
            kind = type(outcome).__name__
            logger.warning("resource=pool:%s event=open_failed error=%s", name, kind)
    if len(failed) == len(pools):
        raise failed[0]
    yield pools


@asynccontextmanager
async def _pool(alias: str) -> AsyncIterator[ConnectionPool]:
    """Show that a pool can connect. All pools are closed together, when nothing uses them."""
    pool = connection_pools[alias]
    await asyncio.to_thread(_connect, pool)
    yield pool


def _connect(pool: ConnectionPool) -> None:
    pool.acquire().release()

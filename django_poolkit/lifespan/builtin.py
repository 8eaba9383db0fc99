"""The resources that come with the kit: pools of `DATABASES`, client sessions of `POOLKIT["HTTP"]`.

They are opened before the resources of the project, and closed after them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from django.db import connections

from django_poolkit.conf.http import http_names
from django_poolkit.conf.lifespan import LifespanConfig
from django_poolkit.http.sessions import resource as client_session
from django_poolkit.lifespan.base import Resource
from django_poolkit.pools.postgres import ConnectionPool
from django_poolkit.registry import connection_pools

logger = logging.getLogger("django_poolkit.lifespan")


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

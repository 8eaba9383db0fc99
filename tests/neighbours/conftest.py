"""The default alias on a pool of two, for neighbours in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connection as default_connection
from django.db import connections

from django_poolkit import registry
from django_poolkit.pools.postgres import ConnectionPool

connection: Any = default_connection


@pytest.fixture(scope="module", params=["session", "transaction"])
def mode(request: pytest.FixtureRequest) -> str:
    """How long a lease lasts."""
    chosen: str = request.param
    return chosen


@pytest.fixture
def pooled(transactional_db: None) -> Iterator[Callable[..., ConnectionPool]]:
    """Return a function that sets the options of the default alias, and returns its pool.

    In the end nothing may be leased.
    """
    alias = connections.settings["default"]
    before = dict(alias)
    pools: list[ConnectionPool] = []

    def change(*, entry: dict[str, Any] | None = None, **options: Any) -> ConnectionPool:
        connections.close_all()
        registry.pools.close_all()
        alias["OPTIONS"] = {"pool": {"max_size": 2, "timeout": 5.0, **options}}
        alias.update(entry or {})
        made: ConnectionPool = connection.pool
        pools.append(made)
        return made

    try:
        yield change
        connection.close()
        for pool in pools:
            stats = pool.stats()
            assert (stats.used, stats.waiters, stats.leaks) == (0, 0, 0)
            assert stats.size == stats.idle + stats.connecting
    finally:
        connection.close()
        alias.clear()
        alias.update(before)
        registry.pools.close_all()
        registry.asyncpg.close_all()


@pytest.fixture
def pool(request: pytest.FixtureRequest, pooled: Callable[..., ConnectionPool]) -> ConnectionPool:
    """A pool of two, in transaction mode unless a test is `in_both_modes`."""
    return pooled(mode=getattr(request, "param", "transaction"))


@pytest.fixture
def full(pool: ConnectionPool) -> Iterator[ConnectionPool]:
    """The same pool, exhausted for whoever waits for a twentieth of a second."""
    pool.timeout = 0.05
    leases = [pool.acquire(5.0) for _ in range(pool.max_size)]
    yield pool
    for lease in leases:
        lease.release()

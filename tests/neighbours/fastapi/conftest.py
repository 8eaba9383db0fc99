"""The default alias on a pool of two, of which nothing may be leased in the end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from asgiref.sync import SyncToAsync
from django.db import connection, connections
from django.test import override_settings

from django_poolkit import registry
from django_poolkit.lifespan import course, declared
from django_poolkit.pools.postgres import ConnectionPool
from django_poolkit.testing.waiting import wait_until
from tests.lifespan.support import Diary
from tests.servers.client import PATIENCE


@pytest.fixture(params=["session", "transaction"])
def pool(request: pytest.FixtureRequest, transactional_db: None) -> Iterator[ConnectionPool]:
    """The pool of the default alias, in both modes."""
    alias = connections.settings["default"]
    before = alias["OPTIONS"]

    def start_anew() -> None:
        connections.close_all()
        # Where sync_to_async() runs what it is given, if nobody lends it a thread.
        SyncToAsync.single_thread_executor.submit(lambda: connection.close()).result()
        registry.asyncpg.close_all()
        registry.pools.close_all()

    start_anew()
    alias["OPTIONS"] = {"pool": {"max_size": 2, "timeout": PATIENCE, "mode": request.param}}
    pool: ConnectionPool = connection.pool  # type: ignore[attr-defined]
    try:
        asyncpg = {"default": {"max_size": 1, "TIMEOUT": PATIENCE}}
        with override_settings(POOLKIT={"ASYNCPG": asyncpg}):
            yield pool
            connection.close()
            wait_until(lambda: pool.stats().used == 0, 5.0, lambda: f"lost: {pool.leases()}")
            assert pool.stats().leaks == 0
            assert not [each for each in registry.asyncpg if each.stats().used]
    finally:
        alias["OPTIONS"] = before
        start_anew()


@pytest.fixture
def diary() -> Iterator[Diary]:
    """A process that has seen no lifespan yet, and what is opened in it."""
    before = dict(declared._declared)
    declared._declared.clear()
    yield Diary()
    declared._declared.clear()
    declared._declared.update(before)
    course.forget()

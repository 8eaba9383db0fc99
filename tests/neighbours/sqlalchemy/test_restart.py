"""The server is restarted under engines that write: what they were told is committed is there."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import sqlalchemy
from django.conf import settings
from django.db import connection as default_connection
from django.test import override_settings
from sqlalchemy import exc

from django_poolkit import asyncpg_pools, registry, share
from django_poolkit.contrib.sqlalchemy import create_async_engine, create_engine
from django_poolkit.pools.postgres import ConnectionPool
from django_poolkit.testing import Node
from tests.neighbours.restarts import PATIENCE, Kept, athrough_restart, through_restart
from tests.neighbours.sqlalchemy.support import Thing, in_both_modes, stored


def verify(kept: Kept) -> None:
    """Nothing that was acknowledged is lost, and nothing is there that nobody wrote."""
    assert kept.lost(stored()) == []
    assert kept.forged(stored()) == []
    default_connection.close()


@in_both_modes
def test_threads_write_on_after_a_restart(pool: ConnectionPool, primary: Node) -> None:
    engine = create_engine("default")

    pool.timeout = PATIENCE  # who waits for the server does so until it is up

    def write(name: str) -> None:
        with engine.begin() as held:
            held.execute(sqlalchemy.insert(Thing).values(name=name))

    # Four on two connections.
    kept = through_restart(lambda: primary.restart("immediate"), write, (exc.OperationalError,))
    verify(kept)
    assert len(kept.refused) <= 2  # those whose statement was under way: nobody else notices
    stats = pool.stats()
    assert (stats.used, stats.waiters, stats.leaks) == (0, 0, 0)
    assert stats.size == stats.idle <= 2


def test_tasks_write_on_after_a_restart(transactional_db: None, primary: Node) -> None:
    async def main() -> Kept:
        engine = create_async_engine("default")

        async def write(name: str) -> None:
            async with engine.begin() as held:
                await held.execute(sqlalchemy.insert(Thing).values(name=name))

        kept = await athrough_restart(
            lambda: primary.restart("immediate"), write, (exc.DBAPIError, OSError)
        )
        await engine.dispose()
        stats = asyncpg_pools["default"].stats()
        assert (stats.used, stats.waiters, stats.leaks) == (0, 0, 0)
        assert stats.size == stats.idle <= 2
        return kept

    options: dict[str, Any] = {"max_size": 2, "TIMEOUT": PATIENCE}
    with override_settings(POOLKIT={**settings.POOLKIT, "ASYNCPG": {"default": options}}):
        verify(asyncio.run(main()))
    registry.asyncpg.close_all()


def test_leases_tell_the_work_that_an_engine_does(pool: ConnectionPool) -> None:
    engine = create_engine("default")
    with share("exports"), engine.connect():
        (lease,) = pool.leases()
        assert lease.where == "sqlalchemy, exports"


@pytest.mark.django_db(transaction=True)
def test_those_of_an_asyncio_engine_do_so_as_well() -> None:
    async def main() -> None:
        engine = create_async_engine("default")
        with share("exports"):
            async with engine.connect():
                (lease,) = asyncpg_pools["default"].leases()
                assert lease.where == "sqlalchemy, exports"
        await engine.dispose()

    asyncio.run(main())
    registry.asyncpg.close_all()

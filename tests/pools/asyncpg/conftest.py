"""Pools of asyncpg on the tests' server, and an event loop of each kind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from django_poolkit.pools.asyncpg.pool import AsyncpgPool
from tests.pools.asyncpg.support import LOOPS, MakePool, Run, runner
from tests.pools.support import unique


@pytest.fixture
def run() -> Run:
    """Run a coroutine on a loop of asyncio's."""
    return runner("asyncio")


@pytest.fixture(params=list(LOOPS))
def run_on_each(request: pytest.FixtureRequest) -> Run:
    """Run it on each kind of loop."""
    return runner(request.param)


@pytest.fixture
def where(params: dict[str, Any]) -> dict[str, Any]:
    """Connect parameters of the server, as asyncpg takes them."""
    return {"database" if key == "dbname" else key: value for key, value in params.items()}


@pytest.fixture
def service() -> str:
    """The `application_name` of this test's connections."""
    return unique("asyncpg")


@pytest.fixture
def make(where: dict[str, Any], service: str) -> Iterator[MakePool]:
    """Return a function that makes pools; they are closed after the test."""
    pools: list[AsyncpgPool] = []

    def make(connect: dict[str, Any] | None = None, /, **options: Any) -> AsyncpgPool:
        settings = {"application_name": service, **options.pop("server_settings", {})}
        given = {"TIMEOUT": 10.0, "max_size": 4, "server_settings": settings, **options}
        pool = AsyncpgPool({**where, **(connect or {})}, name="raw", **given)
        pools.append(pool)
        return pool

    yield make
    for pool in pools:
        pool.close_from_thread(5.0)

"""One real PostgreSQL server for the whole run, and a pool on it for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from django.db import connections

from django_poolkit import registry
from django_poolkit.pools.postgres import ConnectionPool
from django_poolkit.testing import Cluster, Node
from tests.emptying import instead_of_flush


@pytest.fixture(scope="session")
def primary() -> Iterator[Node]:
    """A real server, started once a run."""
    with Cluster() as cluster:
        yield cluster.primary


@pytest.fixture(scope="session")
def django_db_modify_db_settings(primary: Node) -> None:
    """Lead Django's connections to that server."""
    for alias in connections:
        # The mapping that the wrappers are made from; none has been made yet.
        connections.settings[alias].update(
            HOST=primary.host, PORT=str(primary.port), USER=primary.user, PASSWORD=primary.password
        )
    registry.pools.close_all()


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    """Have the database of the run, and have it emptied quickly after each test."""
    with ExitStack() as stack:
        with django_db_blocker.unblock():
            stack.enter_context(instead_of_flush())
        yield


@pytest.fixture
def params(primary: Node) -> dict[str, Any]:
    """Connect parameters of the server, as psycopg takes them."""
    return {
        "host": primary.host,
        "port": primary.port,
        "user": primary.user,
        "password": primary.password,
        "dbname": primary.dbname,
    }


@pytest.fixture
def make_pool(params: dict[str, Any]) -> Iterator[Callable[..., ConnectionPool]]:
    """Return a function that makes pools; they are closed after the test."""
    pools: list[ConnectionPool] = []

    def make(**options: Any) -> ConnectionPool:
        kwargs = params | options.pop("kwargs", {})
        pool = ConnectionPool(kwargs=kwargs, **{"timeout": 10.0, **options})
        pools.append(pool)
        return pool

    yield make
    for pool in pools:
        pool.close()

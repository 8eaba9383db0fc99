"""A real PgBouncer in front of the server of the run, and pools behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from django_poolkit.pools.postgres import ConnectionPool
from django_poolkit.testing import Node
from django_poolkit.testing.pgbouncer import PgBouncer, find_pgbouncer

ROLE = "of_the_pooler"


@pytest.fixture(scope="session")
def role(primary: Node) -> Iterator[str]:
    """A role that comes in through the poolers, whose password is its name."""
    primary.execute(f"CREATE ROLE {ROLE} LOGIN SUPERUSER PASSWORD '{ROLE}'")
    yield ROLE
    primary.execute(f"DROP ROLE {ROLE}")


@pytest.fixture(scope="session")
def installed() -> None:
    """Skip what asks for it where there is no PgBouncer."""
    if find_pgbouncer() is None:
        pytest.skip("needs PgBouncer, as Debian has it")


@pytest.fixture(scope="session")
def lends(installed: None, primary: Node, role: str) -> Iterator[Callable[..., PgBouncer]]:
    """Return a function that starts a PgBouncer with some settings; one for all that ask alike."""
    started: dict[object, PgBouncer] = {}

    def start(**settings: Any) -> PgBouncer:
        key = tuple(sorted(settings.items()))
        if key not in started:
            bouncer = PgBouncer(primary, users={role: role}, **settings)
            bouncer.start()
            started[key] = bouncer
        return started[key]

    yield start
    for bouncer in started.values():
        bouncer.stop()


@pytest.fixture(scope="session")
def bouncer(lends: Callable[..., PgBouncer]) -> PgBouncer:
    """One that lends two sessions by transaction."""
    return lends(default_pool_size=2)


@pytest.fixture
def behind(
    bouncer: PgBouncer, make_pool: Callable[..., ConnectionPool]
) -> Callable[..., ConnectionPool]:
    """Return a function that makes a pool behind it, which says so."""

    def make(through: PgBouncer = bouncer, **options: Any) -> ConnectionPool:
        place = {"host": through.host, "port": through.port, "autocommit": True}
        place |= options.pop("kwargs", {})
        return make_pool(kwargs=place, **{"pooler": "pgbouncer-transaction", **options})

    return make


def pid(connection: psycopg.Connection[Any]) -> int:
    """Return which session of the server a statement meets."""
    row = connection.execute("SELECT pg_backend_pid()").fetchone()
    assert row is not None
    return int(row[0])

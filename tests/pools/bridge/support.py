"""What the tests of the bridge share."""

from __future__ import annotations

from typing import Any

from django_poolkit.pools.postgres import ConnectionPool


def one(pool: ConnectionPool, text: str = "SELECT 1") -> Any:
    """Return the one value of a statement on a lease of its own."""
    with pool.lease() as connection:
        return connection.execute(text).fetchone()[0]


def by_itself(pool: ConnectionPool, text: str = "SELECT 1") -> Any:
    """The same in autocommit mode, and without a block: nothing but the statement is sent."""
    lease = pool.acquire()
    try:
        lease.connection.autocommit = True
        return lease.connection.execute(text).fetchone()[0]
    finally:
        lease.release()

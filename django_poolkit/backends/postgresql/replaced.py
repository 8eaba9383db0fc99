"""Leases of a server that another one has replaced meanwhile."""

from __future__ import annotations

from typing import cast

from django_poolkit.pools.lease import Lease
from django_poolkit.pools.postgres import ConnectionPool
from django_poolkit.pools.postgres.connection import PoolConnection
from django_poolkit.pools.postgres.fence import Fenced


def is_old(lease: Lease) -> bool:
    """Return whether a lease is from before it was known that its server may be replaced."""
    connection: PoolConnection | None = lease._connection
    pool = cast(ConnectionPool, lease.pool)
    # Below 0 is what was given up for another reason.
    return connection is not None and 0 <= connection._generation < pool.fenced


def refuse(lease: Lease) -> None:
    """Raise Fenced where a lease's server has been replaced: what it commits would be lost."""
    pool = cast(ConnectionPool, lease.pool)
    if (objection := pool.fence.objection(lease.connection)) is not None:
        raise Fenced(f"pool {pool.name!r}: {objection}, so nothing is committed there")

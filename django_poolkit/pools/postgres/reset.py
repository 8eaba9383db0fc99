"""What is done to a connection on its way home, and when.

One round trip brings a connection back to what its start-up left: whatever was set by
start-up options survives it, and so do the statements that psycopg has prepared.
"""

from __future__ import annotations

from typing import Final

import psycopg
from psycopg.pq import TransactionStatus

from django_poolkit.pools.config import ResetPolicy
from django_poolkit.pools.lease import Lease
from django_poolkit.pools.postgres import probe
from django_poolkit.pools.postgres.connection import PoolConnection

# In one round trip DISCARD ALL is not possible (PostgreSQL refuses it among other statements),
# and it would drop what psycopg has prepared. DISCARD TEMP comes last: it is the only one that
# waits for locks.
RESET: Final = (
    b"SELECT pg_catalog.pg_advisory_unlock_all(); CLOSE ALL; UNLISTEN *; "
    b"RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL; DISCARD SEQUENCES; DISCARD TEMP"
)
# After a PREPARE as text, or where psycopg has none of its own that would go with it: one may
# have been hidden in a function.
_DEALLOCATE: Final = b"DEALLOCATE ALL"
# A reset is a few catalogue look-ups. A server that takes longer is in no state to be used.
TIMEOUT: Final = 5.0

_IDLE = TransactionStatus.IDLE
_OPEN = (TransactionStatus.INTRANS, TransactionStatus.INERROR)


def due(lease: Lease, connection: PoolConnection, policy: ResetPolicy) -> bool:
    """Return whether the lease may have left session state behind."""
    if policy == "always" or lease.dirty is not None or lease.holds > 0:
        return True
    if policy == "request" and lease.foreign:
        return True
    return lease.ran and connection._baseline.reported_change(connection)


def at_rest(connection: PoolConnection) -> bool:
    """Return whether no transaction, query or COPY is open on the connection."""
    return bool(connection.pgconn.transaction_status == _IDLE)


def hopeless(connection: PoolConnection, lease: Lease) -> str | None:
    """Return why the connection cannot be cleaned, None if it can."""
    status = connection.pgconn.transaction_status
    if status == TransactionStatus.UNKNOWN:
        return "broken"
    if status == TransactionStatus.ACTIVE:
        return "active"  # a query or a COPY was abandoned half way
    if connection._pipeline or connection._num_transactions or connection._tpc:
        return "unfinished"  # a pipeline, transaction() block or two-phase commit was left open
    if lease.dirty == "load":
        return "loaded"  # a library stays in the server process until that ends
    return None


def clean(connection: PoolConnection, *, full: bool, prepared: bool) -> bool:
    """Roll back what is open and, if `full`, reset the session; return False if that failed.

    `prepared` says that a text may have prepared statements, beside psycopg's own. Blocks for
    `TIMEOUT` seconds at most. Sends nothing where there is nothing to do.
    """
    statements = []
    if connection.pgconn.transaction_status in _OPEN:
        statements.append(b"ROLLBACK")
    if full:
        statements.append(RESET)
        own = connection._prepared
        if prepared or not (own._names or own._to_flush):
            statements.append(_DEALLOCATE)
            connection.forget_prepared()
        if connection._restore_sql:
            statements.append(connection._restore_sql)
    if statements:
        if statements[0] == b"ROLLBACK" and connection._plans is not None:
            connection._plans.clear()  # of which psycopg has not heard
        try:
            probe.execute(connection, b"; ".join(statements), TIMEOUT)
        except (psycopg.Error, OSError):
            return False
    return at_rest(connection)

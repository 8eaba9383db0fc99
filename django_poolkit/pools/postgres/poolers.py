"""Whether a pooler stands in between, and whether it can keep prepared statements apart.

A pooler that lends its server connections by transaction has to know which statements each
client has prepared, and on which connection. One that does gives them names of its own, or the
statements of two clients would meet. One that does not hands the client's names through.
"""

from __future__ import annotations

from secrets import token_hex
from typing import Final

import psycopg
from psycopg import generators
from psycopg.pq import ExecStatus

from django_poolkit.pools.poolers import Pooler
from django_poolkit.pools.postgres import probe
from django_poolkit.pools.postgres.connection import PoolConnection

REFUSAL: Final = (
    "['prepare'] is on, and a pooler in between mixes up prepared statements: turn it off, or "
    "write 'pooler' if each client has a session of its own there"
)
UNTRACKED: Final = (
    "['prepare'] is on, and the PgBouncer in between does not keep track of prepared statements: "
    "turn it off. PgBouncer has to be 1.22 or newer, with max_prepared_statements above 0"
)
# Seconds: a few questions, answered at once.
_TIMEOUT: Final = 5.0


def stands_between(connection: PoolConnection) -> bool:
    """Return whether something else than the server has answered the connect. One round trip.

    Blocks for 5 seconds at most. Raises psycopg.Error.
    """
    # A pooler makes up the number that it tells its clients: it is for cancel requests.
    (result,) = probe.execute(connection, b"SELECT pg_catalog.pg_backend_pid()", _TIMEOUT)
    return int(result.get_value(0, 0) or b"0") != connection.pgconn.backend_pid


def refuse_untracked(connection: PoolConnection, pooler: Pooler | None) -> None:
    """Refuse a pooler in between that does not keep track of prepared statements.

    Four round trips. Blocks for 5 seconds each at most. Raises psycopg.NotSupportedError, and
    psycopg.Error.
    """
    if not _is_tracked(connection):
        raise psycopg.NotSupportedError(REFUSAL if pooler is None else UNTRACKED)


def _is_tracked(connection: PoolConnection) -> bool:
    """Prepare a statement, and look by which name the server knows it."""
    pgconn, name = connection.pgconn, f"_poolkit_{token_hex(8)}"
    # In a transaction, for which the pooler stays with one server connection.
    probe.execute(connection, b"BEGIN", _TIMEOUT)
    pgconn.send_prepare(name.encode(), b"SELECT 1")
    results = connection.wait(generators.execute(pgconn), timeout=_TIMEOUT)
    if any(result.status == ExecStatus.FATAL_ERROR for result in results):
        probe.execute(connection, b"ROLLBACK", _TIMEOUT)
        return False
    question = f"SELECT FROM pg_catalog.pg_prepared_statements WHERE name = '{name}'"
    (result,) = probe.execute(connection, question.encode(), _TIMEOUT)
    tracked = result.ntuples == 0
    # On the way to whoever tracks it the name is another: there, the statement ends with this
    # client. Else it would stay for somebody else's.
    end = b"COMMIT" if tracked else f"DEALLOCATE {name}; COMMIT".encode()
    probe.execute(connection, end, _TIMEOUT)
    return tracked

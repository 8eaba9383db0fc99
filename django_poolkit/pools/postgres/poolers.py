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

from django_poolkit.pools.postgres import probe
from django_poolkit.pools.postgres.connection import PoolConnection

REFUSAL: Final = (
    "['prepare'] is on, and a pooler in between mixes up prepared statements: turn it off, or "
    "write 'pooler' if each client has a session of its own there"
)
# Seconds: a few questions, answered at once.
_TIMEOUT: Final = 5.0


def refuse_untracked(connection: PoolConnection, timeout: float = _TIMEOUT) -> None:
    """Refuse a pooler in between that does not keep track of prepared statements.

    One round trip where there is none, four more where there is. Blocks for `timeout` seconds
    each, 5 at most. Raises psycopg.NotSupportedError, and psycopg.Error.
    """
    timeout = min(timeout, _TIMEOUT)
    # A pooler makes up the number that it tells its clients: it is for cancel requests.
    (result,) = probe.execute(connection, b"SELECT pg_catalog.pg_backend_pid()", timeout)
    if int(result.get_value(0, 0) or b"0") == connection.pgconn.backend_pid:
        return
    if not _is_tracked(connection, timeout):
        raise psycopg.NotSupportedError(REFUSAL)


def _is_tracked(connection: PoolConnection, timeout: float) -> bool:
    """Prepare a statement, and look by which name the server knows it."""
    pgconn, name = connection.pgconn, f"_poolkit_{token_hex(8)}"
    # In a transaction, for which the pooler stays with one server connection.
    probe.execute(connection, b"BEGIN", timeout)
    pgconn.send_prepare(name.encode(), b"SELECT 1")
    results = connection.wait(generators.execute(pgconn), timeout=timeout)
    if any(result.status == ExecStatus.FATAL_ERROR for result in results):
        probe.execute(connection, b"ROLLBACK", timeout)
        return False
    question = f"SELECT FROM pg_catalog.pg_prepared_statements WHERE name = '{name}'"
    (result,) = probe.execute(connection, question.encode(), timeout)
    tracked = result.ntuples == 0
    # On the way to whoever tracks it the name is another: there, the statement ends with this
    # client. Else it would stay for somebody else's.
    end = b"COMMIT" if tracked else f"DEALLOCATE {name}; COMMIT".encode()
    probe.execute(connection, end, timeout)
    return tracked

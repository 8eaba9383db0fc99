"""What the server itself counts, from `pg_stat_activity`.

Asked on a short connection of its own and never through a pool: an exhausted pool must not hide
itself, and to look must not take what others wait for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from django_poolkit.pools.credentials import resolved
from django_poolkit.pools.postgres import probe
from django_poolkit.pools.postgres.connect import Connector, SessionDefaults, summarise
from django_poolkit.pools.postgres.connection import PoolConnection

NAME: Final = "poolkit-status"
"""The `application_name` of the connection that asks, which leaves itself out of the count."""

# Seconds. The least that libpq takes for a connect; and for how long nothing may come back at
# all, which is longer than the server works on the statement.
_CONNECT: Final = 2
_SILENCE: Final = 3.0

# In a transaction, so that nothing of it stays on a connection of a pooler in between. Only
# client backends count against max_connections. Of the sessions of other roles an ordinary
# role sees the name and neither type nor state; most background workers lack role or database.
_QUESTION: Final = b"""
BEGIN READ ONLY;
SET LOCAL search_path = pg_catalog;
SET LOCAL statement_timeout = '2s';
SELECT json_build_object(
    'server', format('%s %s', extract(epoch FROM pg_postmaster_start_time()),
                     current_setting('port')),
    'max_connections', current_setting('max_connections')::int,
    'reserved', current_setting('superuser_reserved_connections')::int
                + coalesce(current_setting('reserved_connections', true), '0')::int,
    'sessions', (
        SELECT coalesce(json_agg(named), '[]') FROM (
            SELECT coalesce(application_name, '') AS application_name,
                   count(*) AS connections,
                   CASE WHEN count(state) = count(*)
                        THEN count(*) FILTER (WHERE state LIKE 'idle in transaction%') END
                       AS idle_in_transaction,
                   coalesce(extract(epoch FROM max(clock_timestamp() - state_change)
                       FILTER (WHERE state LIKE 'idle in transaction%')), 0) AS longest
            FROM pg_stat_activity
            WHERE pid <> pg_backend_pid()
              AND (backend_type = 'client backend' OR backend_type IS NULL
                   AND usesysid IS NOT NULL AND datid IS NOT NULL)
            GROUP BY 1) AS named));
COMMIT
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sessions:
    """The connections of one `application_name`."""

    application_name: str
    connections: int
    idle_in_transaction: int | None
    """None where the role that asked may not see the state of all of them."""
    longest: float
    """Seconds for which the first of those has been idle in its transaction, 0.0 for none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """A server at one moment, without the connection that asked."""

    server: str
    """Tells servers apart, whatever address led there."""
    max_connections: int
    reserved: int
    """Of those, how many an ordinary role cannot have."""
    sessions: tuple[Sessions, ...]


def ask(params: Mapping[str, Any]) -> Activity:
    """Ask the server that these connect parameters lead to; `password` may be a function.

    Blocks for about 5 seconds at most for each address that a host's name stands for. Raises
    ConnectionError, with a text that names neither address nor secret.
    """
    secret = ""
    try:
        params = resolved(params, timeout=_CONNECT)
        secret = str(params.get("password") or "")
        own = {"application_name": NAME, "connect_timeout": _CONNECT}
        connector = Connector(PoolConnection, SessionDefaults(), name=NAME, timeout=_CONNECT)
        connection = connector.connect("", {**params, **own})
        try:
            results = probe.execute(connection, _QUESTION, _SILENCE)
        finally:
            connection.close()
        [answer] = [json.loads(found.get_value(0, 0) or b"") for found in results if found.ntuples]
    except Exception as error:
        raise ConnectionError(summarise(error, secret)) from None
    sessions = tuple(Sessions(**row) for row in answer.pop("sessions"))
    return Activity(sessions=sessions, **answer)

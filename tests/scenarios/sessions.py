"""What a connection looks like to the one who has just acquired it, and ways to spoil it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from psycopg import Connection, IsolationLevel

# All that PostgreSQL can tell of a session, in one row, and what it says of an untouched one.
FACTS = """
SELECT current_setting('search_path'), current_setting('statement_timeout'),
       current_setting('default_transaction_read_only'),
       coalesce(current_setting('app.owner', true), ''), current_user::text,
       (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()),
       (SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema()),
       (SELECT count(*) FROM pg_listening_channels()),
       (SELECT count(*) FROM pg_cursors),
       (SELECT count(*) FROM pg_prepared_statements WHERE from_sql)
"""
UNTOUCHED = ('"$user", public', "0", "off", "", "postgres", 0, 0, 0, 0, 0)


def facts(connection: Connection[Any]) -> tuple[Any, ...]:
    """Return what the server says of this session. Leaves no transaction open, nor a trace."""
    # Below psycopg: no transaction begins, no cursor notes the text.
    result = connection.pgconn.exec_(FACTS.encode())
    assert result.ntuples == 1, result.error_message
    values = [(result.get_value(0, column) or b"").decode() for column in range(result.nfields)]
    return (*values[:5], *map(int, values[5:]))


# Each leaves something behind that another user of the connection would stumble over.
# `c` is anything with `execute()`, also one of Django's cursors.
RESIDUES: dict[str, Callable[[Any], object]] = {
    "search_path": lambda c: c.execute("SET search_path TO pg_catalog"),
    "timeout": lambda c: c.execute("SET statement_timeout = '77s'"),
    "owner": lambda c: c.execute("SELECT set_config('app.owner', 'somebody', false)"),
    "role": lambda c: c.execute("SET ROLE pg_monitor"),
    "temp_table": lambda c: c.execute("CREATE TEMP TABLE residue (x int)"),
    "advisory_lock": lambda c: c.execute("SELECT pg_try_advisory_lock(4711)"),
    "shared_lock": lambda c: c.execute("SELECT pg_try_advisory_lock_shared(1, 2)"),
    "listen": lambda c: c.execute("LISTEN residue"),
    "prepared": lambda c: c.execute("PREPARE residue AS SELECT 1"),
    "hidden": lambda c: c.execute(
        "DO $$ BEGIN PERFORM set_config('app.owner', 'x', false); END $$"
    ),
}
# And these change the driver's object only, each with its value in a connection that is new.
# They need a connection at rest.
ATTRIBUTES: dict[str, tuple[Any, Any]] = {
    "autocommit": (True, False),
    "isolation_level": (IsolationLevel.REPEATABLE_READ, None),
    "read_only": (True, None),
    "deferrable": (True, None),
    "prepare_threshold": (1, None),
}

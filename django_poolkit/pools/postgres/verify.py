"""What session state is there, as the server knows it: for tests, by `verify_state`.

The text of a statement does not show what a trigger, a view or a function declared harmless
does. So the server is asked at release, in one round trip, and what it says is compared with
what it said when the connection was made, shown to its receivers, or reset.

PostgreSQL lists no setting that a project made up (`app.tenant`), so those are looked up by the
names that occur in the functions of the database. (Views and policies would have to be
deparsed, which waits for the locks of their tables.) Values never leave the server: it hands out
hashes. It cannot be asked for the last values of sequences, nor for libraries that were loaded.
"""

from __future__ import annotations

from typing import Final

from django_poolkit.pools.errors import SessionStateLeft
from django_poolkit.pools.postgres import probe
from django_poolkit.pools.postgres.connection import PoolConnection

SessionState = frozenset[tuple[str, str, str]]
"""Kind, name and a hash of the value, where there is one, of each thing that is there."""

# A name with a dot, in quotes or behind SET: a column of an UPDATE costs a look-up of nothing.
_NAMES: Final = (
    "(?:''|[[:<:]]set[[:space:]]+(?:session[[:space:]]+)?)"
    "([a-z_][a-z0-9_$]*(?:[.][a-z_][a-z0-9_$]*)+)"
)
# Everything by its schema: the search path is one of the things that may have been changed.
_QUESTION: Final = f"""
SELECT 'setting', name, pg_catalog.hashtextextended(setting, 0)::text
  FROM pg_catalog.pg_settings WHERE source = 'session'
UNION ALL
SELECT 'setting', name, pg_catalog.hashtextextended(value, 0)::text
  FROM (
    SELECT name, pg_catalog.current_setting(name, true) AS value FROM (
      SELECT DISTINCT pg_catalog.lower(found[1]) AS name FROM (
        SELECT coalesce(pg_catalog.pg_get_function_sqlbody(p.oid), p.prosrc)
          FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_language l ON l.oid = p.prolang
          WHERE l.lanname NOT IN ('c', 'internal')
            AND p.pronamespace <> 'pg_catalog'::pg_catalog.regnamespace
      ) AS sources (source), pg_catalog.regexp_matches(source, '{_NAMES}', 'gi') AS found
    ) AS names
    WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_settings known WHERE known.name = names.name)
    OFFSET 0
  ) AS made_up WHERE value <> ''
UNION ALL
SELECT 'setting', 'role', pg_catalog.hashtextextended(current_user::text, 0)::text
UNION ALL
SELECT 'setting', 'session_authorization',
  pg_catalog.hashtextextended(session_user::text, 0)::text
UNION ALL
SELECT 'advisory lock', CASE objsubid
    WHEN 1 THEN ((classid::int8 << 32) | objid::int8)::text
    ELSE pg_catalog.concat(
      '(', (classid::int8 << 32 >> 32)::bit(32)::int4, ', ', (objid::int8)::bit(32)::int4, ')')
  END, mode
  FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND pid = pg_catalog.pg_backend_pid()
UNION ALL
SELECT CASE relkind WHEN 'v' THEN 'temporary view' WHEN 'S' THEN 'temporary sequence'
    WHEN 'c' THEN 'temporary type' ELSE 'temporary table' END, relname, ''
  FROM pg_catalog.pg_class
  WHERE relnamespace = pg_catalog.pg_my_temp_schema() AND relkind NOT IN ('i', 'I', 't')
UNION ALL
SELECT 'temporary type', typname, '' FROM pg_catalog.pg_type
  WHERE typnamespace = pg_catalog.pg_my_temp_schema() AND typtype IN ('d', 'e', 'r')
UNION ALL
SELECT 'temporary function', proname, '' FROM pg_catalog.pg_proc
  WHERE pronamespace = pg_catalog.pg_my_temp_schema()
UNION ALL
SELECT 'LISTEN', channel, '' FROM pg_catalog.pg_listening_channels() AS channel
UNION ALL
SELECT 'cursor WITH HOLD', name, '' FROM pg_catalog.pg_cursors WHERE is_holdable
UNION ALL
SELECT 'prepared statement', name, '' FROM pg_catalog.pg_prepared_statements WHERE from_sql
""".encode()  # noqa: S608 - made of constants

# A catalogue query; of a database with very many functions a slow one.
_TIMEOUT: Final = 10.0


def look(connection: PoolConnection) -> SessionState:
    """Return what session state there is. One round trip, outside of a transaction.

    Blocks for 10 seconds at most. Raises psycopg.Error.
    """
    (result,) = probe.execute(connection, _QUESTION, _TIMEOUT)

    def text(row: int, column: int) -> str:
        return (result.get_value(row, column) or b"").decode("utf-8", "replace")

    return frozenset((text(row, 0), text(row, 1), text(row, 2)) for row in range(result.ntuples))


def left(connection: PoolConnection) -> tuple[str, ...]:
    """Return the names of what is there, or gone, that was not at the begin of the lease.

    Blocks and raises as `look()`.
    """
    changed = look(connection) ^ connection._ground_state
    return tuple(sorted({f"{kind} {name}" for kind, name, _ in changed}))


def error(pool: str, names: tuple[str, ...]) -> SessionStateLeft:
    """Return the error that says so, and what to do."""
    found = SessionStateLeft(
        f"pool {pool!r}: a lease left session state behind that the text of none of its "
        f"statements shows: {'; '.join(names)}. The next lease would have met it; the connection "
        "has been reset instead. It was set inside a function, trigger or view. Hold one "
        "connection for what sets and needs it, with `connection.pinned()`; or have a text show "
        "it: take that function out of `harmless_functions`, or SET by a statement of your own. "
        "Or stay in session mode, with `reset` 'always'.",
        pool=pool,
    )
    found.left = names
    return found

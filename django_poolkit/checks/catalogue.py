"""The functions of a database, what reaches them without a call in a text, and their bodies.

Read in one transaction that waits for nothing long, and changes nothing. Only bodies that are
asked for are read, so a database of very many functions costs one list of their names.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from django.db import connections

STATEMENT_SECONDS: Final = 5
"""How long each question may take. PostgreSQL ends it then."""
MOST_FUNCTIONS: Final = 50_000
LONGEST_BODY: Final = 200_000
"""Characters. What is longer is not read."""
_EXAMPLES: Final = 3

# A deparsed body would otherwise wait for who has a table of it locked.
_BOUNDS: Final = (
    "SELECT set_config('statement_timeout', %s, true), set_config('lock_timeout', '1s', true)"
)
_FUNCTIONS: Final = """
SELECT p.oid::bigint, n.nspname, p.proname, l.lanname, e.extname,
  p.prokind = 'p',
  p.prorettype IN ('trigger'::regtype, 'event_trigger'::regtype)
FROM pg_catalog.pg_proc p
JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
JOIN pg_catalog.pg_language l ON l.oid = p.prolang
LEFT JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_proc'::regclass
  AND d.objid = p.oid AND d.deptype = 'e'
LEFT JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid
WHERE n.nspname NOT IN ('pg_catalog', 'information_schema') AND p.prokind <> 'a'
ORDER BY p.oid LIMIT %s
"""
# Triggers, event triggers, views, policies, defaults, constraints, operators, casts ...: all that
# has a function depends on it. (Those PostgreSQL ships have no such entries.)
_REACHED: Final = """
SELECT refobjid::bigint, total::int,
  pg_catalog.pg_describe_object(classid, objid, 0)
FROM (
  SELECT refobjid, classid, objid,
    row_number() OVER (PARTITION BY refobjid ORDER BY classid, objid) AS place,
    count(*) OVER (PARTITION BY refobjid) AS total
  FROM (
    SELECT DISTINCT refobjid, classid, objid FROM pg_catalog.pg_depend
    WHERE refclassid = 'pg_catalog.pg_proc'::regclass AND deptype IN ('n', 'a')
      AND classid NOT IN ('pg_catalog.pg_proc'::regclass, 'pg_catalog.pg_language'::regclass)
  ) AS each_once
) AS numbered WHERE place <= %s ORDER BY refobjid, place
"""
_BODIES: Final = """
SELECT oid::bigint, left(coalesce(pg_catalog.pg_get_function_sqlbody(oid), prosrc), %s)
FROM pg_catalog.pg_proc WHERE oid = ANY (%s::oid[])
"""
# The stored trees of expressions name functions by number; to deparse them would wait for locks.
_POLICIES: Final = """
SELECT pg_catalog.pg_describe_object('pg_catalog.pg_policy'::regclass, oid, 0)
FROM pg_catalog.pg_policy, (
  SELECT ':funcid (' || string_agg(oid::text, '|') || ') ' AS reads FROM pg_catalog.pg_proc
  WHERE proname = 'current_setting' AND pronamespace = 'pg_catalog'::regnamespace
) AS function
WHERE concat(polqual, polwithcheck) ~ reads ORDER BY oid
"""


@dataclass(frozen=True, slots=True)
class Function:
    """A function or procedure that PostgreSQL does not ship."""

    oid: int
    schema: str
    name: str
    language: str
    extension: str | None
    is_procedure: bool
    is_trigger: bool
    """Whether it can be called by a trigger only, of a table or of events."""

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}()"


@dataclass(frozen=True, slots=True)
class Reached:
    """What has a function run without a call in a statement's text."""

    examples: tuple[str, ...]
    total: int

    def __str__(self) -> str:
        more = self.total - len(self.examples)
        return ", ".join(self.examples) + (f" and {more} more" if more else "")


class Catalogue:
    """Asks one database. Every method may take `STATEMENT_SECONDS`, and raises django.db.Error."""

    def __init__(self, cursor: Any) -> None:
        self._cursor = cursor

    def functions(self) -> list[Function]:
        """Return all functions, `MOST_FUNCTIONS` of them at most."""
        self._cursor.execute(_FUNCTIONS, [MOST_FUNCTIONS])
        return [Function(*row) for row in self._cursor.fetchall()]

    def reached(self) -> dict[int, Reached]:
        """Return by function what has it run: triggers, views, policies, defaults and so on."""
        self._cursor.execute(_REACHED, [_EXAMPLES])
        found: dict[int, Reached] = {}
        for oid, total, what in self._cursor.fetchall():
            shown = str(what).replace("rule _RETURN on view", "view")
            before = found[oid].examples if oid in found else ()
            found[oid] = Reached((*before, shown), total)
        return found

    def policies(self) -> list[str]:
        """Return the row-level security policies that read a setting themselves."""
        self._cursor.execute(_POLICIES)
        return [str(what) for (what,) in self._cursor.fetchall()]

    def bodies(self, oids: Collection[int]) -> dict[int, str]:
        """Return the bodies of some functions, cut behind `LONGEST_BODY` and one."""
        self._cursor.execute(_BODIES, [LONGEST_BODY + 1, list(oids)])
        return dict(self._cursor.fetchall())


@contextmanager
def questions(alias: str) -> Iterator[tuple[Any, Any]]:
    """Yield a cursor of the database of `alias`, with the connection's wrapper.

    The wrapper is one of its own, and closed in the end; what is asked is rolled back.
    """
    connection = connections[alias].copy()
    try:
        # Its own transaction: whatever the caller has open keeps its timeouts.
        connection.set_autocommit(False)
        with connection.cursor() as cursor:
            cursor.execute(_BOUNDS, [f"{STATEMENT_SECONDS}s"])
            yield cursor, connection
        connection.rollback()
    finally:
        connection.close()


@contextmanager
def catalogue(alias: str) -> Iterator[Catalogue]:
    """Look into the database of `alias`, on a connection wrapper of its own, which it closes."""
    with questions(alias) as (cursor, _):
        yield Catalogue(cursor)

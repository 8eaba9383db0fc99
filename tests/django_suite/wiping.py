"""Empty the test databases after a test without a transaction, by connections of its own.

Django would truncate every table there is and fill some of them again: seconds for each test. And
what is emptied by the backend under test would be emptied by what is to be tested.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import psycopg
from django.db import connections

# Foreign keys are not looked at; what a test has left locked fails it, and hangs nothing.
_OPTIONS = "-c session_replication_role=replica -c lock_timeout=30s"

_FIRST = """
    SELECT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND a.attname = 'id'
        AND pg_relation_size(c.oid) > 0
"""
_WIPE = """
    DO $$
    DECLARE
        first jsonb := '{first}';
        name text;
    BEGIN
        FOR name IN
            SELECT relname FROM pg_class
            WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
                AND pg_relation_size(oid) > 0
        LOOP
            IF first ? name THEN
                EXECUTE format('DELETE FROM %I WHERE id > %s', name, first ->> name);
            ELSE
                EXECUTE format('DELETE FROM %I', name);
            END IF;
        END LOOP;
    END $$
"""


class Wiper:
    """Leaves of each database what was there at first: content types, permissions, the site."""

    def __init__(self, server: Mapping[str, Any]) -> None:
        """Take where the server is: what is tested may be led there through a pooler."""
        self._server = server
        self._statements: dict[str, str] = {}
        self._connections: dict[tuple[str, str], psycopg.Connection[Any]] = {}

    def look(self) -> None:
        """Take note of what is there."""
        for alias in connections:
            if not connections[alias].settings_dict["NAME"].startswith("test_"):
                continue  # no test that is run asks for it
            connection = self._connection(alias)
            names = [name for (name,) in connection.execute(_FIRST).fetchall()]
            first = {}
            for name in names:
                [last] = connection.execute(f'SELECT max(id) FROM "{name}"').fetchone() or [None]
                if isinstance(last, int):
                    first[name] = last
            self._statements[alias] = _WIPE.replace("{first}", json.dumps(first))
        self.close()  # before processes are forked

    def wipe(self, aliases: Iterable[str]) -> None:
        """Delete what has come since."""
        for alias in aliases:
            self._connection(alias).execute(self._statements[alias])

    def close(self) -> None:
        """Close its connections."""
        while self._connections:
            self._connections.popitem()[1].close()

    def _connection(self, alias: str) -> psycopg.Connection[Any]:
        settings = connections[alias].settings_dict
        key = (alias, settings["NAME"])
        if key not in self._connections:
            self._connections[key] = psycopg.connect(
                host=self._server["host"],
                port=self._server["port"],
                user=settings["USER"],
                password=settings["PASSWORD"],
                dbname=settings["NAME"],
                options=_OPTIONS,
                autocommit=True,
            )
        return self._connections[key]

"""What was written in transaction mode, as the writers know it and as the server saw it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, LiteralString

from psycopg import Connection

from django_poolkit.testing import Node
from tests.scenarios.users import Broken

_WATCH: LiteralString = """
CREATE TABLE watched (name text, tx xid8);
CREATE FUNCTION watch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO public.watched VALUES (NEW.name, pg_current_xact_id());
    RETURN NULL;
END $$;
CREATE TRIGGER watch AFTER INSERT OR UPDATE ON app_item FOR EACH ROW EXECUTE FUNCTION watch();
CREATE INDEX watch_name ON app_item (name);
CREATE INDEX watch_x ON app_item (id) WHERE name LIKE '%/x';
"""
_UNWATCH: LiteralString = """
SET lock_timeout = '10s';
DROP TRIGGER watch ON app_item; DROP FUNCTION watch; DROP TABLE watched;
DROP INDEX watch_name; DROP INDEX watch_x;
"""


@contextmanager
def watched(node: Node, dbname: str) -> Iterator[Connection[Any]]:
    """Have the server note who writes what; provide a connection that belongs to no pool."""
    with node.connect(dbname=dbname, application_name="observer") as observer:
        observer.execute(_WATCH)
        try:
            yield observer
        finally:
            observer.execute(_UNWATCH)


class Journal:
    """What has to be in the table in the end. Each logical transaction has a number.

    Its rows are named NUMBER/PART. The server notes beside each name in which of its own
    transactions it was written: one number, one transaction, and the other way round.
    """

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self.kept: set[str] = set()
        self.unknown: set[str] = set()
        """Written, or overwritten, by those who lost the server in the middle."""

    def doomed(self) -> str:
        """Return the name of a row that will never be committed."""
        return f"{next(self._numbers)}/x"

    @contextmanager
    def entry(self, parts: str, instead_of: Sequence[str] = ()) -> Iterator[list[str]]:
        """Provide the names of one transaction's rows; those of `instead_of` go with it.

        They stand if the block ends well, do not if it ends with Broken, and may otherwise.
        """
        number = next(self._numbers)
        names = [f"{number}/{part}" for part in parts]
        self.kept.difference_update(instead_of)
        self.unknown.update(names, instead_of)
        try:
            yield names
        except Broken:
            self.unknown.difference_update(names, instead_of)
            self.kept.update(instead_of)
            raise
        self.unknown.difference_update(names, instead_of)
        self.kept.update(names)

    def check(self, observer: Connection[Any]) -> None:
        """Compare with what the server has, and has noted."""
        names = [name for (name,) in observer.execute("SELECT name FROM app_item")]
        noted = set(observer.execute("SELECT split_part(name, '/', 1), tx FROM watched"))
        rows = set(names)
        assert len(rows) == len(names), "written twice"
        assert self.kept <= rows, f"lost: {sorted(self.kept - rows)[:9]}"
        surplus = rows - self.kept - self.unknown
        assert not surplus, f"came from nowhere: {sorted(surplus)[:9]}"
        assert len(noted) > 100
        for column, what in enumerate(("split over transactions", "in a foreign transaction")):
            several = len(noted) - len({pair[column] for pair in noted})
            assert not several, f"{several} {what}"

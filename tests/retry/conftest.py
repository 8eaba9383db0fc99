"""Django's default alias behind a proxy that cuts, and a server that tells what it has run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connection, connections

from django_poolkit import registry
from django_poolkit.backends import ports
from django_poolkit.pools.postgres import ConnectionPool
from django_poolkit.testing import Node
from django_poolkit.testing.faults import TCPProxy

# What a text that only reads runs in the end: the one thing that a rollback does not undo.
_WITNESS = """
CREATE SEQUENCE runs; CREATE SEQUENCE tries;
CREATE VIEW witness AS SELECT nextval('runs') AS run;
CREATE FUNCTION shaky() RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE number bigint := nextval('tries');
BEGIN
    IF number < 3 THEN RAISE EXCEPTION 'not now' USING ERRCODE = '40001'; END IF;
    RETURN number;
END $$;
CREATE VIEW shaky_view AS SELECT shaky() AS number;
"""
_GONE = """
DROP VIEW IF EXISTS witness, shaky_view; DROP FUNCTION IF EXISTS shaky();
DROP SEQUENCE IF EXISTS runs, tries;
"""


class Ledger:
    """The server, asked beside the proxy."""

    def __init__(self, observer: Any) -> None:
        self._observer = observer

    def scalar(self, text: str) -> Any:
        """Return the one value of an answer."""
        return self._observer.execute(text).fetchone()[0]

    @property
    def runs(self) -> int:
        """How often the server has run a read of the view `witness`."""
        return int(self.scalar("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM runs"))

    @property
    def rows(self) -> int:
        """How many items there are."""
        return int(self.scalar("SELECT count(*) FROM app_item"))


@pytest.fixture
def proxy(primary: Node) -> Iterator[TCPProxy]:
    with TCPProxy(primary.host, primary.port) as proxy:
        yield proxy


@pytest.fixture
def ledger(transactional_db: None, primary: Node) -> Iterator[Ledger]:
    with primary.connect(dbname=connection.settings_dict["NAME"]) as observer:
        observer.execute(_GONE + _WITNESS)
        yield Ledger(observer)
        observer.execute(_GONE)


@pytest.fixture
def pooled(ledger: Ledger, proxy: TCPProxy) -> Iterator[Callable[..., ConnectionPool]]:
    """Return a function that sets the pool's options, and returns the pool, behind the proxy."""
    alias = connections.settings["default"]
    before = dict(alias)

    def change(**options: Any) -> ConnectionPool:
        connections.close_all()
        registry.pools.close_all()
        alias["OPTIONS"] = {"pool": {"max_size": 3, "timeout": 5.0, "bypass": 60.0, **options}}
        alias.update(HOST=proxy.host, PORT=str(proxy.port))
        pool: ConnectionPool | None = getattr(connections["default"], "pool", None)
        assert pool is not None
        return pool

    try:
        yield change
        connection.close()
        assert all(pool.stats().used == 0 for pool in registry.pools)
    finally:
        connection.close()
        alias.clear()
        alias.update(before)
        registry.pools.close_all()


@pytest.fixture
def unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the ports be as they were, afterwards."""
    monkeypatch.setattr(ports, "note_failure", ports.note_failure)
    monkeypatch.setattr(ports, "refuse_write", ports.refuse_write)

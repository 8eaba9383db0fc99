"""Session state that one request leaves never reaches the next on the same connection."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connection, transaction
from psycopg.rows import dict_row

from tests.app.models import Item
from tests.scenarios.sessions import ATTRIBUTES, RESIDUES, UNTOUCHED, facts

pytestmark = pytest.mark.core


def backend() -> int:
    connection.ensure_connection()
    pid: int = connection.connection.info.backend_pid
    return pid


def same_backend_next(pid: int) -> Any:
    """End the request, begin the next, and return its connection, which must be the same."""
    connection.close()
    assert backend() == pid
    return connection.connection


@pytest.mark.parametrize("residue", sorted(RESIDUES))
@pytest.mark.parametrize("way", ["autocommit", "atomic", "unfinished"])
def test_what_a_request_sets_never_reaches_the_next(pooled, residue, way):
    pool = pooled(max_size=1)
    pid = backend()
    match way:
        case "autocommit":
            with connection.cursor() as cursor:
                RESIDUES[residue](cursor)
        case "atomic":
            with transaction.atomic(), connection.cursor() as cursor:
                RESIDUES[residue](cursor)
        case "unfinished":
            transaction.set_autocommit(False)
            with connection.cursor() as cursor:
                RESIDUES[residue](cursor)
    # LISTEN alone begins with the COMMIT that never comes.
    assert facts(connection.connection) != UNTOUCHED or (residue, way) == ("listen", "unfinished")
    assert facts(same_backend_next(pid)) == UNTOUCHED
    Item.objects.create(name="works")
    assert pool.stats().resets == 1


@pytest.mark.parametrize("name", sorted(ATTRIBUTES))
def test_what_a_request_does_to_the_driver_never_reaches_the_next(pooled, name):
    pooled(max_size=1)
    pid = backend()
    new = getattr(connection.connection, name)
    value, plain = ATTRIBUTES[name]
    setattr(connection.connection, name, not new if name == "autocommit" else value)
    raw = same_backend_next(pid)
    assert getattr(raw, name) == new == (True if name == "autocommit" else plain)
    Item.objects.create(name="works")


def test_listeners_and_adapters_of_a_request_never_reach_the_next(pooled):
    pooled(max_size=1)
    pid = backend()
    heard: list[Any] = []
    raw = connection.connection
    raw.add_notify_handler(heard.append)
    raw.row_factory = dict_row
    raw.adapters.register_dumper(int, raw.adapters.get_dumper(str, "t"))
    with connection.cursor() as cursor:
        cursor.execute("LISTEN news")
    raw = same_backend_next(pid)
    with connection.cursor() as cursor:
        cursor.execute("NOTIFY news")
        cursor.execute("SELECT %s + 1", (41,))
        assert cursor.fetchone() == (42,)
    assert heard == []


def test_a_request_that_needs_no_reset_pays_none(pooled):
    pool = pooled(max_size=1)
    for _ in range(5):
        with transaction.atomic():
            Item.objects.create(name="x")
        assert Item.objects.exists()
        connection.close()
    assert pool.stats().resets == 0


HIDDEN = "DO $$ BEGIN EXECUTE 'PRE' || 'PARE residue AS SELECT 1'; END $$"


@pytest.mark.parametrize(
    ("prepare", "statement"),
    [
        (False, "PREPARE residue AS SELECT 1"),
        (True, "PREPARE residue AS SELECT 1"),
        (True, "/* now */ prepare residue as select 1"),
        # With psycopg's own beside it, only what the text shows can be told from them.
        (False, HIDDEN),
    ],
    ids=["off", "on", "comment", "hidden"],
)
def test_what_was_prepared_after_other_residues_goes_with_them(pooled, prepare, statement):
    pooled(max_size=1, prepare=prepare)
    pid = backend()
    for _ in range(8):
        Item.objects.exists()  # psycopg prepares some of its own
    with connection.cursor() as cursor:
        cursor.execute("DO $$ BEGIN END $$")
        cursor.execute("SET statement_timeout = '77s'")
        cursor.execute(statement)
    assert facts(same_backend_next(pid)) == UNTOUCHED
    for _ in range(8):
        assert not Item.objects.exists()

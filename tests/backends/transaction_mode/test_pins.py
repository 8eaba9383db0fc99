"""What leaves state in its session holds the connection to close(), and what does not, does not."""

from __future__ import annotations

import pytest
from django.core.signals import request_finished
from django.db import DatabaseError, transaction

from tests.backends.transaction_mode.support import (
    acquired,
    backend,
    connection,
    create,
    next_lease,
    pins,
    scalar,
    used,
)
from tests.scenarios.sessions import UNTOUCHED, facts

# Each with the reason that is counted.
STATEFUL = {
    "SET search_path TO pg_catalog": "set",
    "set SESSION statement_timeout = '77s'": "set",
    "/* note */ SET ROLE pg_monitor": "set",
    "SELECT set_config('app.owner', 'somebody', false)": "set",
    "SELECT 1; SET app.owner = 'somebody'": "set",
    "LISTEN news": "listen",
    "PREPARE residue AS SELECT 1": "prepare",
    "CREATE TEMP TABLE residue (x int)": "temp_table",
    "CREATE TEMP SEQUENCE residue": "temp_table",
    "SELECT pg_advisory_lock(4711)": "advisory_lock",
    "SELECT pg_try_advisory_lock_shared(1, 2)": "advisory_lock",
    "DECLARE residue CURSOR WITH HOLD FOR SELECT 1": "cursor_hold",
    "DO $$ BEGIN PERFORM set_config('app.owner', 'x', false); END $$": "do",
    "BEGIN": "begin",
    "START TRANSACTION": "begin",
}
IN_A_BLOCK = [statement for statement, reason in STATEFUL.items() if reason != "begin"]
HARMLESS = (
    "SELECT 'SET search_path TO pg_catalog; LISTEN news'",
    "SELECT 1 -- SET search_path TO pg_catalog",
    "SELECT pg_advisory_xact_lock(4711)",
    "SELECT set_config('app.owner', 'x', true)",
    "SHOW search_path",
    "SELECT now(), current_user, pg_backend_pid()",
    "NOTIFY news",
    "ANALYZE app_item",
    "TRUNCATE app_item",
)


@pytest.mark.parametrize("statement", STATEFUL)
def test_a_statement_that_leaves_state_holds_its_backend_until_close(pooled, neighbour, statement):
    pool = pooled(max_size=2)
    mine = backend()
    scalar(statement)
    assert used(pool) == 1
    for _ in range(3):
        assert neighbour.begins() != mine
        assert backend() == mine
        neighbour.rolls_back()
    assert pins(pool) == {STATEFUL[statement]: 1}
    connection.close()
    assert used(pool) == 0
    lease = pool.acquire()
    assert lease.connection.info.backend_pid == mine
    assert facts(lease.connection) == UNTOUCHED
    lease.release()


def test_a_library_cannot_be_unloaded_so_its_connection_is_closed(pooled):
    pool = pooled(max_size=1)
    mine = backend()
    scalar("LOAD 'plpgsql'")
    assert backend() == mine
    assert pins(pool) == {"load": 1}
    connection.close()
    assert backend() != mine
    assert pool.stats().size == 1


@pytest.mark.parametrize("statement", IN_A_BLOCK)
def test_in_a_block_it_holds_beyond_the_end_of_the_block(pooled, statement):
    pool = pooled(max_size=1)
    with transaction.atomic():
        scalar(statement)
        mine = backend()
    assert used(pool) == 1
    assert backend() == mine
    connection.close()
    assert next_lease(pool) == UNTOUCHED


@pytest.mark.parametrize("statement", HARMLESS)
def test_what_leaves_no_state_holds_nothing(pooled, statement):
    pool = pooled(max_size=1)
    scalar(statement)
    assert used(pool) == 0
    with transaction.atomic():
        scalar(statement)
    assert used(pool) == 0
    assert pins(pool) == {}


@pytest.mark.core
def test_what_is_set_for_a_transaction_ends_with_it(pooled):
    pool = pooled(max_size=1)
    with transaction.atomic():
        scalar("SET LOCAL search_path TO pg_catalog")
        scalar("CREATE TEMP TABLE residue ON COMMIT DROP AS SELECT 1")
        assert scalar("SHOW search_path") == "pg_catalog"
    assert used(pool) == 0
    assert pins(pool) == {}
    assert next_lease(pool) == UNTOUCHED


@pytest.mark.parametrize(
    ("left", "undone"),
    [
        ("BEGIN", "COMMIT"),
        ("BEGIN", "ROLLBACK"),
        ("SET search_path TO pg_catalog", "RESET search_path"),
        ("SET search_path TO pg_catalog", "RESET ALL"),
        ("SET search_path TO pg_catalog", "DISCARD ALL"),
        ("LISTEN news", "UNLISTEN *"),
        ("PREPARE residue AS SELECT 1", "DEALLOCATE ALL"),
        ("CREATE TEMP TABLE residue (x int)", "DROP TABLE residue"),
        ("SELECT pg_advisory_lock(4711)", "SELECT pg_advisory_unlock_all()"),
    ],
)
def test_to_undo_it_by_text_does_not_let_go(pooled, left, undone):
    pool = pooled(max_size=1)
    scalar(left)
    scalar(undone)
    assert used(pool) == 1
    assert sum(pins(pool).values()) == 1
    connection.close()
    assert next_lease(pool) == UNTOUCHED


@pytest.mark.core
def test_the_end_of_a_request_lets_go(pooled):
    pool = pooled(max_size=1)
    scalar("SET search_path TO pg_catalog")
    scalar("LISTEN news")
    assert pins(pool) == {"set": 1}
    request_finished.send(sender=None)
    assert used(pool) == 0
    assert next_lease(pool) == UNTOUCHED
    create("the next")
    assert used(pool) == 0
    assert pins(pool) == {"set": 1}


def test_only_a_marked_lease_is_reset(pooled):
    pool = pooled(max_size=1)
    scalar("SELECT 1")
    with transaction.atomic():
        create("one")
    connection.close()
    assert pool.stats().resets == 0
    scalar("SET search_path TO pg_catalog")
    connection.close()
    assert pool.stats().resets == 1


@pytest.mark.parametrize(("policy", "resets"), [("dirty", 0), ("request", 1), ("always", 2)])
def test_a_stricter_reset_can_be_asked_for(pooled, policy, resets):
    pool = pooled(max_size=1, reset=policy)
    create("by the ORM")
    scalar("SELECT 1")
    connection.close()
    assert pool.stats().resets == resets
    assert pins(pool) == {}


def test_a_statement_that_fails_may_have_left_state_all_the_same(pooled):
    pool = pooled(max_size=1)
    with pytest.raises(DatabaseError):
        # The statements of one text are one transaction, up to a COMMIT among them.
        scalar("SET search_path TO pg_catalog; COMMIT; SELECT 1 / 0")
    assert used(pool) == 1
    assert scalar("SHOW search_path") == "pg_catalog"
    connection.close()
    assert next_lease(pool) == UNTOUCHED


@pytest.mark.core
@pytest.mark.parametrize("form", ["bytes", "composed", "executemany", "copy", "stream", "named"])
def test_every_way_to_run_a_statement_is_read(pooled, server, form):
    from psycopg import sql

    pool = pooled(max_size=1)
    text = "SELECT set_config('app.owner', 'x', false)"
    with connection.cursor() as cursor:
        match form:
            case "bytes":
                cursor.cursor.execute(text.encode())
            case "composed":
                cursor.execute(
                    sql.SQL("SELECT set_config({}, 'x', false)").format(sql.Literal("app.owner"))
                )
            case "executemany":
                cursor.executemany("SELECT set_config('app.owner', %s, false)", [("x",), ("y",)])
            case "copy":
                with cursor.cursor.copy(f"COPY ({text}) TO STDOUT") as copy:
                    list(copy)
            case "stream":
                list(cursor.cursor.stream(text))
            case "named":
                with connection.chunked_cursor() as chunked:
                    chunked.execute(text)
                    chunked.fetchall()
    assert used(pool) == 1
    assert pins(pool) == {"set": 1}
    connection.close()
    assert next_lease(pool) == UNTOUCHED


@pytest.mark.core
def test_a_pinned_lease_is_counted_once(pooled):
    pool = pooled(max_size=1)
    for _ in range(3):
        for statement in ("SET app.owner = 'x'", "LISTEN news", "SELECT pg_advisory_lock(1)"):
            scalar(statement)
        connection.close()
    assert pins(pool) == {"set": 3}
    assert acquired(pool) == 3

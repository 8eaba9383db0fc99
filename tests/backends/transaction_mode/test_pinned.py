"""What holds a connection without a text that shows it: functions, and `pinned()`."""

from __future__ import annotations

import pytest
from django.db import transaction

from tests.backends.transaction_mode.support import (
    Broken,
    backend,
    connection,
    create,
    next_lease,
    pins,
    scalar,
    used,
)
from tests.scenarios.sessions import UNTOUCHED

# -- functions


@pytest.fixture
def wander(server):
    """A function of the project that changes the settings it is told to, for the session."""
    server.run(
        "CREATE FUNCTION wander(name text, value text) RETURNS text LANGUAGE sql "
        "AS $$ SELECT set_config(name, value, false) $$"
    )
    yield "SELECT wander(%s, %s)"
    server.run("DROP FUNCTION wander")


def test_a_function_that_nobody_knows_holds(pooled, wander):
    pool = pooled(max_size=1)
    scalar(wander, "app.owner", "somebody")
    assert scalar("SELECT current_setting('app.owner')") == "somebody"
    assert pins(pool) == {"function": 1}
    connection.close()
    assert next_lease(pool) == UNTOUCHED


def test_one_that_is_listed_as_harmless_does_not(pooled, wander):
    pool = pooled(max_size=1, harmless_functions=["wander"])
    scalar(wander, "app.owner", "somebody")
    assert used(pool) == 0
    assert pins(pool) == {}


@pytest.mark.parametrize(
    ("name", "value", "before"),
    [
        ("TimeZone", "Asia/Tokyo", "UTC"),
        ("search_path", "pg_catalog", '"$user", public'),
        ("role", "pg_monitor", "none"),
        ("DateStyle", "German, DMY", "ISO, MDY"),
        ("default_transaction_read_only", "on", "off"),
    ],
)
@pytest.mark.parametrize("inside", ["autocommit", "atomic"])
def test_a_setting_that_the_server_reports_holds_although_the_text_is_trusted(
    pooled, wander, inside, name, value, before
):
    pool = pooled(max_size=1, harmless_functions=["wander"])
    assert scalar(f"SHOW {name}") == before
    if inside == "atomic":
        with transaction.atomic():
            scalar(wander, name, value)
    else:
        scalar(wander, name, value)
    assert pins(pool) == {"parameter": 1}
    assert used(pool) == 1
    assert scalar(f"SHOW {name}") == value
    connection.close()
    assert scalar(f"SHOW {name}") == before
    assert used(pool) == 0


# -- by hand


@pytest.mark.core
def test_pinned_holds_one_connection_for_its_block(pooled, neighbour):
    pool = pooled(max_size=2)
    with connection.pinned():
        mine = backend()
        assert used(pool) == 1
        assert neighbour.begins() != mine
        assert backend() == mine
        with transaction.atomic():
            assert backend() == mine
        list(create("row").__class__.objects.iterator())
        with connection.pinned():
            assert backend() == mine
        assert used(pool) == 2
        assert backend() == mine
        neighbour.rolls_back()
    assert used(pool) == 0
    assert pins(pool) == {"pinned": 1}
    assert pool.stats().resets == 1


def test_what_no_text_showed_ends_with_the_pinned_block(pooled):
    pool = pooled(max_size=1, harmless_functions=["quietly"])
    scalar("SELECT 1")
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE OR REPLACE FUNCTION quietly() RETURNS text LANGUAGE sql"
            " AS $$ SELECT set_config('app.owner', 'somebody', false) $$"
        )
    with connection.pinned():
        assert scalar("SELECT quietly()") == "somebody"
        assert scalar("SHOW app.owner") == "somebody"
    assert used(pool) == 0
    assert next_lease(pool) == UNTOUCHED


def test_pinned_without_a_statement_is_nothing(pooled):
    pool = pooled(max_size=1)
    with connection.pinned():
        pass
    assert used(pool) == 0
    create("the next")
    assert used(pool) == 0
    assert pins(pool) == {}


@pytest.mark.parametrize("how", ["ends", "raises"])
def test_what_is_set_in_a_pinned_block_ends_with_it(pooled, how):
    pool = pooled(max_size=1)
    try:
        with connection.pinned():
            scalar("SET search_path TO pg_catalog")
            assert scalar("SHOW search_path") == "pg_catalog"
            if how == "raises":
                raise Broken
    except Broken:
        pass
    assert used(pool) == 0
    assert pool.stats().resets == 1
    assert next_lease(pool) == UNTOUCHED


def test_what_was_held_before_a_pinned_block_is_held_after_it(pooled):
    pool = pooled(max_size=1)
    scalar("SET search_path TO pg_catalog")
    with connection.pinned():
        mine = backend()
    assert used(pool) == 1
    assert backend() == mine
    assert scalar("SHOW search_path") == "pg_catalog"
    assert pins(pool) == {"set": 1}


@pytest.mark.core
def test_a_pinned_block_inside_a_transaction_does_not_end_it(pooled, server):
    pool = pooled(max_size=1)
    with transaction.atomic():
        create("one")
        with connection.pinned():
            create("two")
        assert used(pool) == 1
        assert server.names == []
        create("three")
    assert server.names == ["one", "three", "two"]
    assert used(pool) == 0


@pytest.mark.core
def test_a_pinned_block_that_ends_under_a_cursor_waits_for_it(pooled):
    pool = pooled(max_size=1)
    with connection.pinned():
        cursor = connection.cursor()
        cursor.execute("SELECT 1")
    assert used(pool) == 1
    assert cursor.fetchone() == (1,)
    cursor.close()
    assert used(pool) == 0


@pytest.mark.core
def test_close_in_a_pinned_block_begins_it_anew(pooled):
    pool = pooled(max_size=1)
    with connection.pinned():
        scalar("SET search_path TO pg_catalog")
        connection.close()
        assert used(pool) == 0
        assert scalar("SHOW search_path") == '"$user", public'
        assert used(pool) == 1
    assert used(pool) == 0

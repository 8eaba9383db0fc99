"""What functions leave unseen is named, on a database that has triggers, views and policies."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import psycopg
import pytest
from django.core import checks
from django.core.management import call_command
from django.db import connection as default_connection
from django.db import connections

from django_poolkit import registry
from django_poolkit.checks import catalogue, hidden_search
from django_poolkit.checks.hidden_state import check_hidden_state
from django_poolkit.testing import Node

connection: Any = default_connection
SETS = "BEGIN PERFORM set_config('app.last', NEW.a::text, false); RETURN NEW; END"
TABLE = "CREATE TABLE seen (a int); "
REMEMBER = f"CREATE FUNCTION remember() RETURNS trigger LANGUAGE plpgsql AS $$ {SETS} $$; "
TRIGGER = "CREATE TRIGGER remember BEFORE INSERT ON seen FOR EACH ROW EXECUTE FUNCTION remember(); "


NAME = "hidden_state"


def execute(primary: Node, sql: str) -> None:
    """Run SQL there, on a connection of its own."""
    with psycopg.connect(
        host=primary.host, port=primary.port, user=primary.user, password=primary.password,
        dbname=NAME, autocommit=True,
    ) as other:  # fmt: skip
        other.execute(sql)


@pytest.fixture(scope="module")
def server(primary: Node) -> Iterator[Node]:
    """The server, with a database for these tests."""
    primary.create_database(NAME)
    yield primary
    primary.drop_database(NAME)


@pytest.fixture
def database(
    server: Node, django_db_modify_db_settings: None, django_db_blocker: Any
) -> Iterator[str]:
    """Have the default alias lead to that database, and empty it in the end."""
    connections.close_all()
    registry.pools.close_all()
    settings = connections.settings["default"]
    before, options = settings["NAME"], dict(settings["OPTIONS"])
    settings["NAME"] = connection.settings_dict["NAME"] = NAME
    with django_db_blocker.unblock():
        yield NAME
    connections.close_all()
    registry.pools.close_all()
    settings["NAME"] = connection.settings_dict["NAME"] = before
    settings["OPTIONS"].clear()
    settings["OPTIONS"].update(options)
    execute(server, "DROP EVENT TRIGGER IF EXISTS noted; DROP SCHEMA IF EXISTS app CASCADE;"
            " DROP SCHEMA public CASCADE; CREATE SCHEMA public")  # fmt: skip


Look = Callable[..., list[checks.CheckMessage]]


@pytest.fixture
def run(server: Node, database: str) -> Callable[[str], None]:
    """Return a function that runs SQL there."""
    return partial(execute, server)


@pytest.fixture
def look(database: str) -> Look:
    """Return a function that sets the pool's options, and runs the check."""

    def check(**pool: Any) -> list[checks.CheckMessage]:
        connections["default"].settings_dict["OPTIONS"]["pool"] = {
            "mode": "transaction", "max_size": 1, **pool
        }  # fmt: skip
        found = list(check_hidden_state(databases=["default"]))
        pools = list(registry.pools)
        assert [pool.stats().used for pool in pools] == [0] * len(pools)
        assert [dict(pool.stats().pins) for pool in pools] == [{}] * len(pools)
        return found

    return check


def ids(messages: list[checks.CheckMessage]) -> list[str]:
    return [str(message.id) for message in messages]


def test_an_empty_database_has_nothing_to_say(look: Look) -> None:
    assert look() == []


def test_a_trigger_that_sets_is_named_with_its_table(look: Look, run: Any) -> None:
    run(TABLE + REMEMBER + TRIGGER)
    (message,) = look()
    assert (message.id, message.level) == ("poolkit.W010", checks.WARNING)
    assert "'default' public.remember() changes a setting for the session" in message.msg
    assert message.msg.endswith("It is run by trigger remember on table seen.")
    for remedy in ("pinned()", "session mode", "verify_state", "harmless_functions"):
        assert remedy in str(message.hint)


@pytest.mark.parametrize(
    ("what", "shown"),
    [
        ("CREATE VIEW watched AS SELECT sets(1) AS a", "view watched"),
        ("CREATE TABLE t (b text DEFAULT sets(1))", "default value for column b of table t"),
        ("CREATE POLICY own ON seen USING (sets(a) = '1')", "policy own on table seen"),
        ("CREATE TABLE other (a int CHECK (sets(a) <> ''))",
         "constraint other_a_check on table other"),
    ],
)  # fmt: skip
def test_what_else_runs_a_function_unseen(look: Look, run: Any, what: str, shown: str) -> None:
    run(TABLE + "CREATE FUNCTION sets(a int) RETURNS text LANGUAGE sql AS"
        " $$ SELECT set_config('app.tenant', a::text, false) $$")  # fmt: skip
    assert look() == []  # a statement that calls it shows that, and pins
    run(what)
    (message,) = look()
    assert message.id == "poolkit.W010"
    assert shown in message.msg


def test_an_event_trigger_is_one_too(look: Look, run: Any) -> None:
    run("CREATE FUNCTION noted() RETURNS event_trigger LANGUAGE plpgsql AS"
        " $$ BEGIN CREATE TEMP TABLE IF NOT EXISTS noted (a int); END $$;"
        " CREATE EVENT TRIGGER noted ON sql_drop EXECUTE FUNCTION noted()")  # fmt: skip
    (message,) = look()
    assert "makes a temporary table" in message.msg
    assert "event trigger noted" in message.msg


def test_who_calls_one_that_sets_is_named_with_it(look: Look, run: Any) -> None:
    run(TABLE + "CREATE SCHEMA app; CREATE FUNCTION app.be(a int) RETURNS text"
        " BEGIN ATOMIC SELECT set_config('app.tenant', a::text, false); END;"
        " CREATE PROCEDURE app.through(a int) LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM app.be(a); CALL app.through(a); END $$;"
        " CREATE FUNCTION first() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN CALL app.through(NEW.a); RETURN NEW; END $$;"
        " CREATE TRIGGER first BEFORE UPDATE ON seen FOR EACH ROW EXECUTE FUNCTION first()"
        )  # fmt: skip
    (message,) = look()
    assert "app.be() changes a setting" in message.msg
    assert "It is run by public.first(), which calls it, and is run by trigger first" in message.msg


def test_a_listed_function_is_believed_where_it_is_run_unseen(look: Look, run: Any) -> None:
    run(TABLE + REMEMBER + TRIGGER)
    assert ids(look(harmless_functions=["remember"])) == []
    assert ids(look(harmless_functions=["public.remember"])) == []
    assert ids(look(harmless_functions=["other"])) == ["poolkit.W010"]


def test_a_listed_function_that_sets_is_named(look: Look, run: Any) -> None:
    run("CREATE FUNCTION sets(a int) RETURNS text LANGUAGE sql AS"
        " $$ SELECT set_config('app.tenant', a::text, false) $$;"
        " CREATE PROCEDURE locks() LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM pg_advisory_lock(1); END $$;"
        " CREATE FUNCTION reads(a int) RETURNS text LANGUAGE sql AS $$ SELECT 'a' $$")  # fmt: skip
    assert look() == []
    found = look(harmless_functions=["sets", "public.locks", "reads"])
    assert ids(found) == ["poolkit.W011"] * 2
    assert "public.sets() changes a setting" in found[0].msg
    assert "'public.sets' stands in DATABASES['default']" in str(found[0].hint)
    assert "public.locks() takes or gives back an advisory lock" in found[1].msg


def test_one_that_has_the_name_of_a_shipped_one_is_named(look: Look, run: Any) -> None:
    run("CREATE FUNCTION lower(a int) RETURNS text LANGUAGE sql AS"
        " $$ SELECT set_config('app.tenant', a::text, false) $$")  # fmt: skip
    (message,) = look()
    assert message.id == "poolkit.W011"
    assert "give it another" in str(message.hint)


def test_what_cannot_be_read_is_said_once(look: Look, run: Any) -> None:
    run(TABLE + "CREATE FUNCTION any_text() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN EXECUTE TG_ARGV[0]; RETURN NEW; END $$;"
        " CREATE TRIGGER any_text BEFORE INSERT ON seen"
        " FOR EACH ROW EXECUTE FUNCTION any_text('SELECT 1')")  # fmt: skip
    (message,) = look()
    assert (message.id, message.level) == ("poolkit.I001", checks.INFO)
    assert "public.any_text()" in message.msg
    assert look(harmless_functions=["any_text"]) == []


def test_policies_that_read_a_setting_are_named(look: Look, run: Any) -> None:
    run(TABLE + "CREATE POLICY own ON seen USING (a = current_setting('app.tenant', true)::int);"
        " CREATE POLICY mine ON seen WITH CHECK (a > current_setting('app.least')::int);"
        " CREATE POLICY free ON seen USING (a > 1)")  # fmt: skip
    (message,) = look()
    assert (message.id, message.level) == ("poolkit.I003", checks.INFO)
    assert message.msg.endswith("policy own on table seen, policy mine on table seen.")


def test_extensions_are_read(look: Look, run: Any) -> None:
    run(TABLE + "CREATE EXTENSION dblink; CREATE FUNCTION elsewhere() RETURNS trigger"
        " LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM dblink_connect('other', 'dbname=other'); RETURN NEW; END $$;"
        " CREATE TRIGGER elsewhere BEFORE INSERT ON seen FOR EACH ROW EXECUTE FUNCTION elsewhere()"
        )  # fmt: skip
    (message,) = look()
    assert "public.elsewhere() keeps a connection to another database" in message.msg


@pytest.mark.parametrize(
    ("pool", "expected"),
    [
        ({"mode": "session"}, []),
        ({"mode": "session", "observe": True}, [checks.INFO]),
        ({"mode": "transaction"}, [checks.WARNING]),
    ],
)
def test_the_mode_decides(look: Look, run: Any, pool: Any, expected: list[int]) -> None:
    run(TABLE + REMEMBER + TRIGGER)
    assert [message.level for message in look(**pool)] == expected


def test_without_a_pool_nothing_is_asked(database: str) -> None:
    connections["default"].settings_dict["OPTIONS"]["pool"] = False
    assert list(check_hidden_state(databases=["default"])) == []
    assert list(check_hidden_state()) == []


def test_the_command_shows_it(look: Look, run: Any) -> None:
    run(TABLE + REMEMBER + TRIGGER)
    look()
    said = io.StringIO()
    call_command("check", databases=["default"], tags=["database"], stderr=said)
    assert "(poolkit.W010)" in said.getvalue()


def test_a_body_that_is_locked_does_not_keep_it(look: Look, run: Any, primary: Node) -> None:
    run(TABLE + "CREATE FUNCTION counts() RETURNS bigint"
        " BEGIN ATOMIC SELECT count(*) FROM seen; END;"
        " CREATE VIEW counted AS SELECT counts() AS a")  # fmt: skip
    assert look() == []
    locked, done = threading.Event(), threading.Event()

    def hold() -> None:
        with psycopg.connect(
            host=primary.host, port=primary.port, user=primary.user, password=primary.password,
            dbname=NAME,
        ) as other:  # fmt: skip
            other.execute("LOCK TABLE seen IN ACCESS EXCLUSIVE MODE")
            locked.set()
            done.wait(60.0)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert locked.wait(30.0)
        (message,) = look()
    finally:
        done.set()
        thread.join()
    assert message.id == "poolkit.I002"
    assert message.msg.endswith("could not be looked at: LockNotAvailable.")


def test_a_server_that_is_away_is_said(look: Look, database: str) -> None:
    settings = connections["default"].settings_dict
    before = settings["PORT"]
    settings["PORT"] = "1"
    try:
        (message,) = look(timeout=0.5)
    finally:
        settings["PORT"] = before
    assert message.id == "poolkit.I002"
    assert "PoolTimeout" in message.msg


def test_two_thousand_functions(look: Look, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    body = "BEGIN IF TG_OP = ''INSERT'' THEN NEW.a := NEW.a + 1; END IF; RETURN NEW; END"
    run(TABLE + REMEMBER + TRIGGER + "DO $do$ BEGIN FOR i IN 1..2000 LOOP"
        " EXECUTE format('CREATE FUNCTION f%s() RETURNS trigger LANGUAGE plpgsql AS ''"
        + body.replace("'", "''") + "'' ', i);"
        " EXECUTE format('CREATE TRIGGER t%s BEFORE INSERT ON seen FOR EACH ROW"
        " EXECUTE FUNCTION f%s()', i, i); END LOOP; END $do$")  # fmt: skip
    assert ids(look()) == ["poolkit.W010"]
    monkeypatch.setattr(hidden_search, "SECONDS", 0.0)
    found = look()
    assert ids(found) == ["poolkit.I002"]
    assert "no time for 2001 functions" in found[0].msg
    monkeypatch.undo()
    monkeypatch.setattr(catalogue, "LONGEST_BODY", 10)
    monkeypatch.setattr(hidden_search, "LONGEST_BODY", 10)
    (message,) = look()
    assert "and 1991 more" in message.msg


def test_no_value_of_a_body_is_shown(look: Look, run: Any) -> None:
    run(TABLE + REMEMBER.replace("NEW.a::text", "'a secret'") + TRIGGER)
    shown = json.dumps([str(message) for message in look()])
    assert "a secret" not in shown

"""The verdicts against the real thing: what does a server's session hold after each text?"""

import contextlib
import re
from typing import Any

import psycopg
import pytest
from psycopg.pq import TransactionStatus

from tests.pools.session_state_corpus import HARMLESS, STATEFUL
from tests.pools.session_state_django import STATEMENTS

# The user's functions leak on purpose: a call that was taken for harmless shows.
SCHEMA = """
DROP SCHEMA IF EXISTS public CASCADE;
DROP SCHEMA IF EXISTS app CASCADE;
CREATE SCHEMA public;
CREATE SCHEMA app;
CREATE TABLE t (id serial PRIMARY KEY, a int UNIQUE, b int DEFAULT 0, c int, temp int,
    at timestamptz, name text, data jsonb);
CREATE TABLE u (id serial, a int, c int, t_id int);
CREATE TABLE temp (a int);
CREATE TYPE my_type AS (a int);
CREATE TABLE app.orders (a int UNIQUE, b int);
CREATE FUNCTION my_function(a int DEFAULT 1, OUT r int) LANGUAGE sql VOLATILE
    AS $$ SELECT length(set_config('app.leak', 'by a function', false)) $$;
CREATE FUNCTION app.my_function(a int) RETURNS int LANGUAGE sql AS 'SELECT public.my_function(a)';
CREATE FUNCTION app.f(a int) RETURNS int LANGUAGE sql AS 'SELECT public.my_function(a)';
CREATE FUNCTION "My_Function"(a int) RETURNS int LANGUAGE sql AS 'SELECT my_function(a)';
CREATE FUNCTION "values"(a int) RETURNS int LANGUAGE sql AS 'SELECT my_function(a)';
CREATE FUNCTION "a""b"(a int) RETURNS int LANGUAGE sql AS 'SELECT my_function(a)';
CREATE FUNCTION "größe"(a int) RETURNS int LANGUAGE sql AS 'SELECT my_function(a)';
CREATE FUNCTION f(a int) RETURNS int LANGUAGE sql AS 'SELECT my_function(a)';
CREATE FUNCTION f(a int, b int) RETURNS int LANGUAGE sql AS 'SELECT my_function(a)';
CREATE FUNCTION g(a int) RETURNS int LANGUAGE sql AS 'SELECT my_function(a)';
CREATE FUNCTION my_trigger() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
CREATE PROCEDURE nightly() LANGUAGE sql AS 'SELECT my_function(1)';
INSERT INTO t (a) VALUES (1), (2);
"""
# A setting of the user's that was set LOCAL is "" afterwards, and no longer NULL.
HELD = """
SELECT array(SELECT name || '=' || setting FROM pg_settings
        WHERE source = 'session' AND name NOT LIKE 'transaction%%' ORDER BY 1),
    array(SELECT nullif(current_setting(name, true), '') FROM unnest(%s::text[]) AS name),
    array(SELECT name FROM pg_prepared_statements), array(SELECT name FROM pg_cursors),
    array(SELECT pg_listening_channels()),
    (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()),
    (SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema()),
    (SELECT count(*) FROM pg_proc WHERE pronamespace = pg_my_temp_schema())
"""
EXPECTED_HARMLESS = HARMLESS + STATEMENTS
SETTINGS = ["role", "session_authorization", "app.leak", "app.tenant", "a.b", "a.c", "x.y"]
SETTINGS += ["local.tenant"]
CHANGES = re.compile(r"\b(create|alter|drop|truncate|into|update|delete|merge)\b", re.IGNORECASE)
# Stand-ins for what Django's parameters become.
LITERALS = {"%%": "%", "(%s)::int[]": "'{3}'::int[]", "%s::jsonb": "'1'::jsonb", "%s": "'1'"}


class Refused(Exception):
    """The server did not run the text."""


def what_is_left_by(text: str, params: dict[str, Any]) -> Any:
    """Run `text` on a fresh connection, and return what its session holds afterwards."""
    for placeholder, literal in LITERALS.items():
        text = text.replace(placeholder, literal)
    connection = psycopg.connect(**params, autocommit=True, prepare_threshold=None)
    # Not a `with` on the connection: it would roll back, in the middle of a COPY for ever.
    with contextlib.closing(connection):
        pgconn = connection.pgconn
        try:
            result = pgconn.exec_(text.encode())
        except (ValueError, UnicodeError) as error:
            raise Refused from error
        if result.status not in (psycopg.pq.ExecStatus.COMMAND_OK, psycopg.pq.ExecStatus.TUPLES_OK):
            # Errors, COPY (the server waits for data), empty texts.
            raise Refused(result.error_message)
        if pgconn.transaction_status != TransactionStatus.IDLE:
            return "a transaction"
        return connection.execute(HELD, [SETTINGS]).fetchone()


@pytest.fixture(scope="module")
def residues(primary):
    """What each text of the corpus left that the server has run."""
    params: dict[str, Any] = {
        "host": primary.host,
        "port": primary.port,
        "user": primary.user,
        "password": primary.password,
        "dbname": "session_state",
        "client_encoding": "utf8",
        "options": "-c statement_timeout=10s",
    }
    with psycopg.connect(**{**params, "dbname": primary.dbname}, autocommit=True) as admin:
        admin.execute("CREATE DATABASE session_state ENCODING 'UTF8' TEMPLATE template0")
    try:
        with psycopg.connect(**params, autocommit=True) as owner:
            nothing = what_is_left_by("SELECT 1", params)
            owner.execute(SCHEMA)
            left = {}
            for text in [text for text, _ in STATEFUL] + EXPECTED_HARMLESS:
                try:
                    left[text] = what_is_left_by(text, params)
                except Refused:
                    continue
                if CHANGES.search(text):
                    owner.execute(SCHEMA)
                left[text] = None if left[text] == nothing else left[text]
        yield left
    finally:
        with psycopg.connect(**{**params, "dbname": primary.dbname}, autocommit=True) as admin:
            admin.execute("DROP DATABASE session_state WITH (FORCE)")


def test_what_is_called_harmless_leaves_nothing(residues):
    run = [text for text in EXPECTED_HARMLESS if text in residues]
    assert {text: residues[text] for text in run if residues[text] is not None} == {}
    assert len(run) > 75


def test_what_is_called_stateful_is_seen_to_leave_something(residues):
    """Else the test above would see nothing either."""
    seen: dict[str, int] = {}
    for text, reason in STATEFUL:
        if residues.get(text) is not None:
            seen[reason] = seen.get(reason, 0) + 1
    assert seen["set"] > 20
    assert seen["function"] > 30
    assert seen["temp_table"] > 15
    assert seen["advisory_lock"] > 2
    assert {"listen", "prepare", "cursor_hold", "begin", "call"} <= seen.keys()

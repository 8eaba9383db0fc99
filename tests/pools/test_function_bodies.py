"""What the body of a function leaves and calls, as SQL and PL/pgSQL are written."""

from __future__ import annotations

import pytest

from django_poolkit.pools.function_bodies import read

LEAVES = {
    "BEGIN PERFORM set_config('app.last', NEW.name, false); RETURN NEW; END": "set",
    "BEGIN IF TG_OP = 'INSERT' THEN SET search_path TO a; END IF; RETURN NEW; END": "set",
    "BEGIN IF a THEN NULL; ELSE RESET ROLE; END IF; END": "set",
    "BEGIN FOR r IN SELECT 1 LOOP SET role x; END LOOP; END": "set",
    "<<outer>> BEGIN SET a.b TO 1; END": "set",
    "DECLARE x text := set_config('a.b', 'c', false); BEGIN RETURN x; END": "set",
    "DECLARE x text; BEGIN x := set_config('a.b', 'c', p_local); END": "set",
    "DECLARE x text; BEGIN x[1] = set_config('a.b', 'c', false); END": "set",
    "BEGIN NULL; EXCEPTION WHEN others THEN SET a.b TO 1; END": "set",
    "BEGIN EXECUTE 'SET search_path TO ' || quote_ident(s); END": "set",
    "BEGIN EXECUTE format('SET a.b TO %L', s); END": "set",
    "BEGIN EXECUTE format('SELECT set_config(''a.b'', %L, false)', s); END": "set",
    "BEGIN EXECUTE format('INSERT INTO %I', set_config('a.b', 'c', false)); END": "set",
    "BEGIN PERFORM set_config('a.then b', 'declare', false); END": "set",
    "BEGIN PERFORM pg_advisory_lock(1); END": "advisory_lock",
    "BEGIN RETURN pg_try_advisory_lock(1); END": "advisory_lock",
    "BEGIN CREATE TEMP TABLE t (a int); END": "temp_table",
    "BEGIN EXECUTE 'CREATE TEMPORARY TABLE t (a int)'; END": "temp_table",
    "BEGIN LISTEN news; END": "listen",
    "BEGIN LOAD 'age'; END": "load",
    "/* ; */ BEGIN -- it's\n SET a.b TO E'it\\'s'; END": "set",
    "BEGIN ASSERT a = E'\\'' ; IF b THEN SET a.b TO 1; END IF; END": "set",
}
NOTHING = [
    "BEGIN PERFORM set_config('app.last', NEW.name, true); RETURN NEW; END",
    "BEGIN SET LOCAL search_path TO a; END",
    "BEGIN PERFORM pg_advisory_xact_lock(1), pg_notify('a', 'b'); END",
    "BEGIN CREATE TEMP TABLE t (a int) ON COMMIT DROP; END",
    "BEGIN UPDATE t SET a = CASE WHEN b THEN c ELSE d END; END",
    "BEGIN INSERT INTO t VALUES (1) ON CONFLICT (a) DO UPDATE SET a = 2; END",
    "BEGIN MERGE INTO t USING s ON a = b WHEN MATCHED THEN UPDATE SET a = 1; END",
    "DECLARE start timestamptz := now(); load int; listen text; BEGIN start := now(); END",
    "DECLARE temp int; BEGIN SELECT 1 INTO temp FROM t; SELECT 1 INTO STRICT temp; END",
    "BEGIN RAISE NOTICE 'SET a.b TO 1; % set_config(1, 2, false)', 1; END",
    "BEGIN RETURN currval('s'); END",
    "BEGIN EXECUTE format('INSERT INTO %I VALUES ($1)', t) USING NEW; END",
    "BEGIN -- SET a.b TO 1\n NULL; /* LISTEN x; */ END",
    "BEGIN COMMIT; END",
    "",
]


@pytest.mark.parametrize(("source", "expected"), LEAVES.items(), ids=range(len(LEAVES)))
def test_what_a_body_leaves(source: str, expected: str) -> None:
    body = read(source, "plpgsql")
    assert {str(each) for each in body.leaves} == {expected}


@pytest.mark.parametrize("source", NOTHING, ids=range(len(NOTHING)))
def test_a_body_that_leaves_nothing(source: str) -> None:
    body = read(source, "plpgsql")
    assert (body.leaves, body.unclear) == (frozenset(), False)


def test_all_that_a_body_leaves() -> None:
    body = read(
        "BEGIN LISTEN a; CREATE TEMP TABLE t (a int); PERFORM pg_advisory_lock(1); END", "plpgsql"
    )
    assert {str(each) for each in body.leaves} == {"listen", "temp_table", "advisory_lock"}


@pytest.mark.parametrize(
    "source",
    [
        "SELECT set_config('a.b', $1, false)",
        "SELECT 1; SELECT set_config('a.b', $1, false); SELECT 2",
        "BEGIN ATOMIC\n SELECT set_config('a.b'::text, 'c'::text, false) AS set_config;\nEND",
        "RETURN set_config('a.b'::text, 'c'::text, false)",
    ],
)
def test_bodies_in_sql(source: str) -> None:
    assert {str(each) for each in read(source, "sql").leaves} == {"set"}
    assert read(source.replace("false", "true"), "sql").leaves == frozenset()


@pytest.mark.parametrize(
    ("source", "calls"),
    [
        ("BEGIN PERFORM app.one(1); RETURN QUERY SELECT two(three()); END",
         {"app.one", "two", "three"}),
        ("BEGIN CALL four(1); IF five() THEN x := six(); END IF; END", {"four", "five", "six"}),
        ('BEGIN PERFORM "Seven"(), lower(a); FOR r IN SELECT * FROM eight() LOOP END LOOP; END',
         {"Seven", "eight"}),
    ],
)  # fmt: skip
def test_what_a_body_calls(source: str, calls: set[str]) -> None:
    assert read(source, "plpgsql").calls == calls


@pytest.mark.parametrize(
    "source",
    [
        "BEGIN EXECUTE q; END",
        "BEGIN EXECUTE $x$ SET a.b TO 1 $x$; END",
        "BEGIN EXECUTE format('%s %s', a, b); END",
        "BEGIN DO 'BEGIN NULL; END'; END",
        "BEGIN RETURN 'never closed",
    ],
)
def test_what_cannot_be_read_is_said(source: str) -> None:
    body = read(source, "plpgsql")
    assert (body.leaves, body.unclear) == (frozenset(), True)


def test_the_time_grows_with_the_length_alone() -> None:
    # Quadratic, this would not come to its end within the time of a test.
    read(
        "BEGIN " + "IF a THEN PERFORM f(1, 'x'); ELSE x := y; END IF; " * 20_000 + "END", "plpgsql"
    )
    read("BEGIN EXECUTE '" + "then " * 100_000 + "'; END", "plpgsql")

"""What is spelled out of psycopg's cursors does what psycopg does."""

from __future__ import annotations

import hashlib
import inspect
from typing import Any

import psycopg
import pytest
from psycopg import _cursor_base

from django_poolkit.pools.postgres import leased_cursor
from django_poolkit.pools.postgres.leased_cursor import leased
from tests.pools.support import Money, MoneyDumper, Upper

pytestmark = pytest.mark.core

TEXT = "SELECT 'a'::text"
MONEY = "SELECT %s::int"
# The bodies that were read, of psycopg 3.3.9. Another one is to be read again.
READ = {
    psycopg.Connection.cursor: "1f3aa08351aa5b2b",
    psycopg.BaseConnection._check_connection_ok: "0dddc1c96457c010",
    psycopg.BaseConnection._start_query: "bf3d90efd129ca86",
    psycopg.Cursor.__init__: "1501f6ecd77dd817",
    psycopg.Cursor.close: "7f790fa1db55ee95",
    _cursor_base.BaseCursor.__init__: "1d732c2bf823b647",
    _cursor_base.BaseCursor._close: "04e872b6b24efbcd",
    _cursor_base.BaseCursor._start_query: "5e5dd3e2b176da14",
    _cursor_base.BaseCursor._check_result_for_fetch: "cde17e6ea568cdd2",
}


@pytest.fixture(params=[psycopg.Cursor, psycopg.ClientCursor])
def connection(request, make_pool):
    pool = make_pool(max_size=1, kwargs={"autocommit": True, "cursor_factory": request.param})
    with pool.acquire() as connection:
        yield connection


def fetched(cursor):
    return cursor.execute(TEXT).fetchone()


@pytest.mark.parametrize("function", READ, ids=lambda function: function.__qualname__)
def test_what_is_spelled_out_reads_as_it_did(function):
    digest = hashlib.sha256(inspect.getsource(function).encode()).hexdigest()
    assert digest[:16] == READ[function]


def test_a_new_cursor_has_the_state_of_psycopgs(connection):
    ours, theirs = connection.cursor(), psycopg.Cursor(connection)
    assert isinstance(ours, leased_cursor.PlainCursor)
    assert not isinstance(theirs, leased_cursor.PlainCursor)
    for name in {*_cursor_base.BaseCursor.__slots__} - {"__weakref__", "_adapters"}:
        assert getattr(ours, name, "unset") == getattr(theirs, name, "unset"), name


def test_a_loader_of_one_cursor_is_nobody_elses(connection):
    before, one = connection.cursor(), connection.cursor()
    one.adapters.register_loader("text", Upper)
    after = connection.cursor()
    assert fetched(one) == ("A",)
    assert fetched(before) == fetched(after) == fetched(connection) == ("a",)
    assert one.adapters is one.adapters is not before.adapters


def test_a_dumper_of_one_cursor_is_nobody_elses(connection):
    before, one = connection.cursor(), connection.cursor()
    one.adapters.register_dumper(Money, MoneyDumper)
    assert one.execute(MONEY, [Money()]).fetchone() == (5,)
    for other in (before, connection.cursor(), connection):
        with pytest.raises(psycopg.ProgrammingError, match="cannot adapt"):
            other.execute(MONEY, [Money()])


def test_a_type_of_one_cursor_is_nobody_elses(connection):
    before, one = connection.cursor(), connection.cursor()
    one.adapters.types.add(psycopg.types.TypeInfo("money_of_ours", 999_999, 999_998))
    assert one.adapters.types["money_of_ours"].oid == 999_999
    for other in (before, connection.cursor(), connection):
        assert other.adapters.types.get("money_of_ours") is None


def test_what_is_registered_on_the_connection_is_for_later_cursors(connection):
    before, shown = connection.cursor(), connection.adapters
    between = connection.cursor()
    shown.register_loader("text", Upper)
    assert fetched(before) == fetched(between) == ("a",)
    assert fetched(connection.cursor()) == ("A",)


def test_what_is_registered_late_reaches_no_other_lease(make_pool):
    pool = make_pool(max_size=1)
    with pool.acquire() as connection:
        shown = connection.adapters
    with pool.acquire() as connection:
        shown.register_loader("text", Upper)
        assert fetched(connection.cursor()) == ("a",)
    with pool.acquire() as connection:
        assert fetched(connection.cursor()) == ("a",)


def test_a_loader_changes_results_that_are_there(connection):
    cursor = connection.cursor()
    cursor.execute("SELECT unnest(array['a', 'b'])")
    assert cursor.fetchone() == ("a",)
    cursor.adapters.register_loader("text", Upper)
    assert cursor.fetchone() == ("B",)


def test_a_dumper_serves_the_same_statement_again(connection):
    cursor = connection.cursor()
    cursor.execute(MONEY, [1])
    cursor.adapters.register_dumper(Money, MoneyDumper)
    assert cursor.execute(MONEY, [Money()]).fetchone() == (5,)


def test_who_makes_the_parameters_may_register(connection):
    def parameters(cursor):
        yield [1]
        cursor.adapters.register_dumper(Money, MoneyDumper)
        yield [Money()]

    cursor = connection.cursor()
    cursor.executemany(MONEY, parameters(cursor), returning=True)
    cursor.nextset()
    assert cursor.fetchone() == (5,)


def test_who_copies_may_register(connection):
    connection.execute("CREATE TEMP TABLE copied (number int)")
    cursor = connection.cursor()
    with cursor.copy("COPY copied FROM STDIN") as copy:
        cursor.adapters.register_dumper(Money, MoneyDumper)
        copy.write_row([Money()])
    assert connection.execute("SELECT number FROM copied").fetchone() == (5,)


def test_reading_a_description_during_a_stream_disturbs_nothing(connection):
    cursor = connection.cursor()
    if not isinstance(cursor, psycopg.ClientCursor):
        rows = cursor.stream("SELECT unnest(array['a', 'b'])")
        assert next(rows) == ("a",)
        assert cursor.description[0].type_display == "text"
        assert list(rows) == [("b",)]


def test_a_closed_cursor_and_one_without_a_result_say_so(connection):
    cursor = connection.cursor()
    with pytest.raises(psycopg.ProgrammingError, match="no result"):
        cursor.fetchone()
    cursor.execute("SET client_min_messages TO notice")
    with pytest.raises(psycopg.ProgrammingError, match="didn't produce"):
        cursor.fetchone()
    cursor.close()
    for use in (cursor.fetchone, lambda: cursor.execute("SELECT 1")):
        with pytest.raises(psycopg.InterfaceError, match="cursor is closed"):
            use()


def test_a_statement_that_fails_leaves_no_result_of_the_one_before(connection):
    cursor = connection.cursor()
    cursor.execute("SELECT 1")
    with pytest.raises(psycopg.errors.DivisionByZero):
        cursor.execute("SELECT 1 / 0")
    with pytest.raises(psycopg.ProgrammingError, match="no result"):
        cursor.fetchone()


def test_a_transaction_begins_with_the_first_statement(make_pool):
    with make_pool(max_size=1).acquire() as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT 1")
        assert connection.info.transaction_status.name == "INTRANS"


def overriding(name: str, calls: list[str]) -> type[Any]:
    """Return a factory that does one of the steps in its own way."""

    def step(self, *args, **kwargs):
        calls.append(name)
        return getattr(psycopg.Cursor, name)(self, *args, **kwargs)

    return type("Theirs", (psycopg.Cursor,), {name: step})


@pytest.mark.parametrize("name", sorted({*leased_cursor.SPELLED_OUT} - {"adapters"}))
def test_a_factory_that_does_a_step_itself_is_asked_for_it(make_pool, name):
    calls: list[str] = []
    factory = overriding(name, calls)
    pool = make_pool(max_size=1, kwargs={"cursor_factory": factory})
    with pool.acquire() as connection:
        with connection.cursor() as cursor:
            assert fetched(cursor) == ("a",)
        assert name in calls
        # psycopg's own copying of adapters for it is nobody's hold on them.
        assert not connection._adapters_shown


def test_a_psycopg_with_more_state_is_not_spelled_out(monkeypatch):
    factory = type("Theirs", (psycopg.Cursor,), {})
    monkeypatch.setattr(leased_cursor, "KNOWN", False)
    assert not issubclass(leased(factory), leased_cursor.PlainCursor)


def test_a_connection_class_that_makes_its_cursors_is_asked_for_them(make_pool):
    class Theirs(psycopg.Connection[Any]):
        def cursor(self, *args: Any, **kwargs: Any) -> Any:
            cursor = super().cursor(*args, **kwargs)
            cursor.arraysize = 7
            return cursor

    pool = make_pool(max_size=1, connection_class=Theirs)
    with pool.acquire() as connection:
        assert connection.cursor().arraysize == 7


def test_no_cursor_of_a_broken_connection(make_pool):
    with make_pool(max_size=1).acquire() as connection:
        connection.pgconn.finish()
        with pytest.raises(psycopg.OperationalError, match="connection is closed"):
            connection.cursor()

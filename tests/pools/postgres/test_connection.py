"""The Python side of a connection: what a lease changes on it is gone with the lease."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from django_poolkit.pools.postgres.connection import PoolConnection
from django_poolkit.pools.postgres.errors import LeaseReleased
from tests.pools.support import Money, MoneyDumper, Upper, fill

pytestmark = pytest.mark.core


class Cursor(psycopg.Cursor[Any]):
    pass


class ServerCursor(psycopg.ServerCursor[Any]):
    pass


CHANGES = {
    "autocommit": True,
    "isolation_level": psycopg.IsolationLevel.SERIALIZABLE,
    "read_only": True,
    "deferrable": True,
    "row_factory": dict_row,
    "cursor_factory": Cursor,
    "server_cursor_factory": ServerCursor,
    "prepare_threshold": 1,
    "prepared_max": 7,
}


@pytest.mark.parametrize("attribute", CHANGES)
def test_an_attribute_is_put_back(make_pool, attribute):
    pool = make_pool(max_size=1)
    with pool.acquire() as connection:
        before = getattr(connection, attribute)
        setattr(connection, attribute, CHANGES[attribute])
        assert getattr(connection, attribute) != before
    with pool.acquire() as again:
        assert again is connection
        assert getattr(again, attribute) == before


@pytest.mark.parametrize("attribute", CHANGES)
def test_an_attribute_of_the_pool_is_kept(make_pool, attribute):
    """`configure` and the connect parameters say what every lease begins with."""
    pool = make_pool(
        max_size=1, configure=lambda connection: setattr(connection, attribute, CHANGES[attribute])
    )
    for _ in range(2):
        with pool.acquire() as connection:
            value = getattr(connection, attribute)
            if isinstance(value, type):
                assert issubclass(value, CHANGES[attribute])  # type: ignore[arg-type]
            else:
                assert value == CHANGES[attribute]


def test_the_begin_that_psycopg_remembers_is_put_back(make_pool):
    pool = make_pool(max_size=1)
    with pool.acquire() as connection:
        connection.read_only = True
        assert connection.execute("SHOW transaction_read_only").fetchone() == ("on",)
        connection.rollback()
    with pool.acquire() as connection:
        assert connection.execute("SHOW transaction_read_only").fetchone() == ("off",)


def test_attributes_are_put_back_after_an_open_transaction_too(make_pool):
    pool = make_pool(max_size=1)
    with pool.acquire() as connection:
        connection.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
        connection.row_factory = dict_row
        connection.execute("SELECT 1")
    with pool.acquire() as connection:
        assert connection.isolation_level is None
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_handlers_are_taken_off(make_pool):
    heard: list[object] = []
    pool = make_pool(max_size=1)
    with pool.acquire() as connection:
        connection.add_notice_handler(heard.append)
        connection.add_notify_handler(heard.append)
    with pool.acquire() as connection:
        connection.execute("DO $$ BEGIN RAISE NOTICE 'hello'; END $$")
        connection.execute("LISTEN news; NOTIFY news")
        connection.commit()
        connection.execute("SELECT 1")
    assert heard == []


def test_handlers_of_the_pool_stay(make_pool):
    heard: list[object] = []
    pool = make_pool(max_size=1, configure=lambda c: c.add_notice_handler(heard.append))
    with pool.acquire() as connection:
        connection.remove_notice_handler(heard.append)
    with pool.acquire() as connection:
        connection.execute("DO $$ BEGIN RAISE NOTICE 'hello'; END $$")
    assert len(heard) == 1


def test_notifications_of_one_lease_do_not_wait_for_the_next(make_pool, primary):
    pool = make_pool(max_size=1, kwargs={"autocommit": True})
    with pool.acquire() as connection:
        connection.execute("LISTEN news")
        primary.execute("NOTIFY news, 'for the first'")
        connection.execute("SELECT 1")
    with pool.acquire() as connection:
        assert list(connection.notifies(timeout=0)) == []
        connection.execute("LISTEN news")
        primary.execute("NOTIFY news, 'for the second'")
        [notification] = connection.notifies(timeout=5, stop_after=1)
        assert notification.payload == "for the second"


def test_adapters_are_put_back(make_pool):
    pool = make_pool(max_size=1)
    with pool.acquire() as connection:
        connection.adapters.register_loader("text", Upper)
        connection.adapters.register_dumper(Money, MoneyDumper)
        assert connection.execute("SELECT 'a'::text").fetchone() == ("A",)
        assert connection.execute("SELECT %s::int", (Money(),)).fetchone() == (5,)
    for _ in range(2):
        with pool.acquire() as connection:
            assert connection.execute("SELECT 'a'::text").fetchone() == ("a",)
            with pytest.raises(psycopg.ProgrammingError):
                connection.execute("SELECT %s::int", (Money(),))
            connection.adapters.register_loader("text", Upper)


def test_adapters_of_the_pool_stay(make_pool):
    pool = make_pool(max_size=1, configure=lambda c: c.adapters.register_loader("text", Upper))
    for _ in range(2):
        with pool.acquire() as connection:
            assert connection.execute("SELECT 'a'::text").fetchone() == ("A",)


def test_nothing_is_sent_to_put_it_back(far_pool, proxy):
    pool = far_pool(max_size=1)
    fill(pool, 1)
    before = proxy.client_bytes
    with pool.acquire() as connection:
        connection.autocommit = True
        connection.read_only = True
        connection.row_factory = dict_row
    assert proxy.client_bytes == before


@pytest.mark.parametrize(
    "use",
    [
        lambda connection: connection.cursor(),
        lambda connection: connection.cursor("named"),
        lambda connection: connection.execute("SELECT 1"),
    ],
    ids=["cursor", "named cursor", "execute"],
)
def test_a_connection_that_was_given_back_refuses(make_pool, use):
    pool = make_pool(max_size=1)
    connection = pool.getconn()
    pool.putconn(connection)
    with pytest.raises(LeaseReleased, match="has been given back to its pool"):
        use(connection)


def test_a_class_of_ones_own_is_used(make_pool):
    class Mine(psycopg.Connection[Any]):
        def greet(self):
            return "hello"

    pool = make_pool(max_size=1, connection_class=Mine)
    with pool.acquire() as connection:
        assert connection.greet() == "hello"
        assert isinstance(connection, Mine)
        assert isinstance(connection, PoolConnection)
        assert type(connection).__name__ == "Mine"
        connection.execute("SET work_mem TO '7MB'")
        connection.commit()
    assert pool.stats().resets == 1

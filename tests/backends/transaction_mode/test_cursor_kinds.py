"""Streams, COPY, pipelines, cursors of other classes, and those of a lease that has ended."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from django.db import InterfaceError, transaction

from django_poolkit import LeaseReleased
from django_poolkit.testing.waiting import wait_until
from tests.app.models import Item
from tests.backends.transaction_mode.support import (
    backend,
    connection,
    fill,
    pins,
    used,
)

pytestmark = pytest.mark.core


# -- everything else that runs on a cursor


def test_a_stream_that_is_left_half_way(pooled, server):
    pool = pooled(max_size=1)
    cursor = connection.cursor()
    rows = cursor.stream("SELECT generate_series(1, 1000000)")
    next(rows)
    assert used(pool) == 1
    del rows
    cursor.close()
    connection.close()
    assert used(pool) == 0
    assert isinstance(backend(), int)
    wait_until(lambda: list(server.backends.values()) == ["idle"])
    assert pool.stats().size == 1


@pytest.mark.parametrize(
    "statement",
    [
        "COPY (SELECT generate_series(1, 1000000)) TO STDOUT",
        "COPY app_item (name, created) FROM STDIN",
    ],
    ids=["to", "from"],
)
@pytest.mark.parametrize("block", [True, False], ids=["atomic", "autocommit"])
def test_a_copy_that_is_left_half_way(pooled, server, statement, block):
    pool = pooled(max_size=1)
    if block:
        transaction.set_autocommit(False)
    cursor = connection.cursor()
    manager = cursor.copy(statement)
    copy = manager.__enter__()
    if statement.endswith("STDIN"):
        copy.write_row(["half", "2020-01-01"])
    else:
        copy.read()
    cursor.close()
    assert used(pool) == 1
    connection.close()
    assert used(pool) == 0
    assert isinstance(backend(), int)
    wait_until(lambda: list(server.backends.values()) == ["idle"])
    assert server.names == []
    assert pool.stats().size == 1
    del copy, manager


def test_a_copy_that_is_finished(pooled, server):
    pool = pooled(max_size=1)
    with connection.cursor() as cursor:
        with cursor.copy("COPY app_item (name, created) FROM STDIN") as copy:
            copy.write_row(["one", "2020-01-01"])
        with cursor.copy("COPY app_item (name) TO STDOUT") as copy:
            assert list(copy.rows()) == [("one",)]
    assert server.names == ["one"]
    assert used(pool) == 0
    assert pins(pool) == {}


def test_executemany_and_a_pipeline_are_finished_before_the_release(pooled, server):
    pool = pooled(max_size=1)
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO app_item (name, created) VALUES (%s, now())", [("one",), ("two",)]
        )
    assert used(pool) == 0
    connection.cursor().close()
    with connection.connection.pipeline():
        with connection.cursor() as cursor:
            cursor.execute("INSERT INTO app_item (name, created) VALUES ('three', now())")
        assert used(pool) == 1
    assert server.names == ["one", "three", "two"]


# -- after the end


@pytest.mark.parametrize("chunked", [False, True])
def test_a_cursor_is_refused_after_close(pooled, chunked):
    pooled(max_size=1)
    cursor = connection.chunked_cursor() if chunked else connection.cursor()
    cursor.execute("SELECT generate_series(1, 500)")
    cursor.fetchone()
    connection.close()
    for use in (lambda: cursor.execute("SELECT 1"), cursor.fetchone, lambda: cursor.fetchmany(2)):
        with pytest.raises(InterfaceError) as caught:
            use()
        assert isinstance(caught.value, LeaseReleased)
        assert isinstance(caught.value, psycopg.InterfaceError)
    cursor.close()


def test_an_iterator_of_before_close_does_not_read_on(pooled, neighbour):
    pool = pooled(max_size=1)
    fill(50)
    rows: Any = Item.objects.iterator(chunk_size=2)
    next(rows)
    connection.close()
    # Its connection is the neighbour's now.
    neighbour.begins()
    with pytest.raises(InterfaceError):
        list(rows)
    neighbour.rolls_back()
    assert used(pool) == 0


# -- other cursor classes


class Loud(psycopg.Cursor[Any]):
    """A cursor class of the project's."""

    executed: list[str] = []  # noqa: RUF012

    def execute(self, query: Any, *args: Any, **kwargs: Any) -> Any:
        self.executed.append(str(query))
        return super().execute(query, *args, **kwargs)


def test_a_cursor_class_in_options_is_counted_under_its_own_name(pooled):
    pool = pooled(max_size=1, options={"cursor_factory": Loud})
    Loud.executed.clear()
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        assert type(cursor.cursor).__name__ == "Loud"
        assert isinstance(cursor.cursor, Loud)
        assert used(pool) == 1
    assert used(pool) == 0
    Item.objects.count()
    assert used(pool) == 0
    assert len(Loud.executed) == 2


def test_a_cursor_class_that_is_set_later_is_counted_for_as_long_as_it_stays(pooled):
    pool = pooled(max_size=1)
    backend()
    connection.connection.cursor_factory = Loud
    Loud.executed.clear()
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        assert type(cursor.cursor).__name__ == "Loud"
    connection.close()
    assert used(pool) == 0
    Item.objects.count()
    assert Loud.executed == ["SELECT 1"]
    assert used(pool) == 0


def test_with_server_side_binding_nothing_is_different(pooled, server):
    pool = pooled(max_size=1, options={"server_side_binding": True})
    fill(5)
    backends = set()
    for item in Item.objects.iterator(chunk_size=2):
        backends.add(backend())
        Item.objects.get_or_create(name=f"seen {item.name}")
    assert len(backends) == 1
    assert len(server.names) == 10
    assert used(pool) == 0
    assert pins(pool) == {}

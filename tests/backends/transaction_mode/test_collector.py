"""The garbage collector finds a cursor while psycopg is at a statement: nobody waits for ever."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connections
from psycopg.types.string import StrDumper

from tests.app.models import Item
from tests.backends.transaction_mode.support import connection, create, used
from tests.pools.support import Call

pytestmark = pytest.mark.core


class Collects:
    """A parameter that is adapted just as the collector sets in, under psycopg's lock."""


class CollectingDumper(StrDumper):
    def dump(self, obj: Any) -> Any:
        gc.collect()
        return super().dump("adapted")


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Let the collector come when it is called, and not before."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def half_read() -> None:
    rows = Item.objects.iterator(chunk_size=1)
    next(rows)
    cycle: list[Any] = [rows]
    cycle.append(cycle)


@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_a_server_cursor_found_in_the_middle_of_a_statement(pooled, no_collector, mode, closed):
    pool = pooled(mode=mode, max_size=1)
    for number in range(3):
        create(str(number))
    connection.close()

    def work() -> Any:
        half_read()
        if closed:
            connection.close()
        with connection.cursor() as cursor:
            cursor.adapters.register_dumper(Collects, CollectingDumper)
            cursor.execute("SELECT %s", [Collects()])
            row = cursor.fetchone()
        connection.close()
        return row

    assert Call(work).result(20.0) == ("adapted",)
    assert used(pool) == 0
    with pool.lease() as raw:
        assert raw.execute("SELECT count(*) FROM pg_cursors").fetchone() == (0,)


def test_a_cursor_that_another_thread_counts_out_at_the_wrong_moment(pooled, monkeypatch):
    """Just as the owner, which could open none of its own, counts itself out."""
    pool = pooled(mode="transaction", max_size=1)
    first = connection.cursor()
    lease = connection._lease

    class Late(list[None]):
        closed = False

        def __bool__(self):
            there = len(self) > 0
            if not self.closed:
                self.closed = True
                Call(first.cursor.close).result()
            return there

    def fail(name=None):
        raise LookupError("no cursor")

    lease.gone = Late()
    with monkeypatch.context() as patch:
        patch.setattr(connections["default"], "create_cursor", fail)
        with pytest.raises(LookupError):
            connection.cursor()
    assert used(pool) == 0

"""A lease lives as long as a cursor of it, by whatever way a cursor comes to its end."""

from __future__ import annotations

import gc
import threading
from collections.abc import Generator
from typing import Any

import pytest
from django.db import DatabaseError, InterfaceError, connections, transaction

from django_poolkit.testing.waiting import wait_until
from tests.app.models import Item
from tests.backends.transaction_mode.support import (
    PATIENCE,
    acquired,
    backend,
    connection,
    create,
    fill,
    scalar,
    used,
)

pytestmark = pytest.mark.core


@pytest.fixture
def no_gc():
    """Leave cycles to those who collect them by hand."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


class Knot:
    """A reference cycle around something."""

    def __init__(self, inside: Any) -> None:
        self.inside = inside
        self.itself = self


# -- closed, dropped, forgotten


def test_a_cursor_that_is_closed_gives_the_lease_back(pooled):
    pool = pooled(max_size=1)
    cursor = connection.cursor()
    assert used(pool) == 1
    cursor.execute("SELECT generate_series(1, 3)")
    assert cursor.fetchone() == (1,)
    cursor.close()
    assert used(pool) == 0
    cursor.close()
    with pytest.raises(InterfaceError):
        cursor.fetchone()


def test_another_thread_is_refused_a_cursor_and_leaves_no_lease_behind(pooled):
    pool = pooled(max_size=1)
    wrapper = connections["default"]
    scalar("SELECT 1")
    refused: list[str] = []

    def intrude() -> None:
        try:
            wrapper.cursor()
        except DatabaseError as error:
            refused.append(str(error))

    thread = threading.Thread(target=intrude)
    thread.start()
    thread.join(PATIENCE)
    assert len(refused) == 1
    assert "can only be used in that same thread" in refused[0]
    wait_until(lambda: used(pool) == 0, timeout=PATIENCE)


def test_a_wrapper_prepares_its_cursors_in_its_own_way(pooled, monkeypatch):
    pooled(max_size=1)
    wrapper: Any = connections["default"]
    prepare, prepared = wrapper._prepare_cursor, []

    def prepares(cursor: Any) -> Any:
        prepared.append(cursor)
        return prepare(cursor)

    monkeypatch.setattr(wrapper, "_prepare_cursor", prepares)
    with connection.cursor() as cursor:
        assert prepared == [cursor.cursor]


def test_statements_are_logged_from_the_moment_it_is_asked_for(pooled, monkeypatch):
    pooled(max_size=1)
    scalar("SELECT 1")
    assert connection.queries == []
    monkeypatch.setattr(connections["default"], "force_debug_cursor", True)
    scalar("SELECT 2")
    assert [query["sql"] for query in connection.queries] == ["SELECT 2"]
    connections["default"].queries_log.clear()


def test_a_cursor_that_is_dropped_gives_the_lease_back(pooled):
    pool = pooled(max_size=1)
    cursor = connection.cursor()
    cursor.execute("SELECT 1")
    assert used(pool) == 1
    del cursor
    assert used(pool) == 0


def test_half_a_raw_query_gives_the_lease_back_as_it_is_dropped(pooled):
    pool = pooled(max_size=1)
    fill(5)
    for _ in Item.objects.raw("SELECT * FROM app_item"):
        break
    assert used(pool) == 0
    for _ in Item.objects.raw("SELECT * FROM app_item").iterator():
        break
    assert used(pool) == 0


@pytest.mark.parametrize("server_side", [True, False])
@pytest.mark.parametrize("end", ["exhausted", "closed", "dropped"])
def test_an_iterator_gives_the_lease_back_at_its_end(pooled, server, server_side, end):
    pool = pooled(max_size=1, entry={"DISABLE_SERVER_SIDE_CURSORS": not server_side})
    fill(50)
    rows: Any = Item.objects.iterator(chunk_size=2)
    next(rows)
    # Without a cursor on the server Django fetches all of it at once.
    assert used(pool) == int(server_side)
    if end == "exhausted":
        assert len(list(rows)) == 49
    elif end == "closed":
        rows.close()
    del rows
    assert used(pool) == 0
    assert set(server.backends.values()) == {"idle"}
    assert scalar("SELECT count(*) FROM pg_cursors") == 0
    assert pool.stats().resets == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: connection.cursor(),
        lambda: Item.objects.raw("SELECT * FROM app_item").iterator(),
        lambda: Item.objects.iterator(chunk_size=2),
    ],
    ids=["cursor", "raw", "iterator"],
)
@pytest.mark.parametrize("where", ["here", "elsewhere"])
def test_what_lies_in_a_cycle_gives_the_lease_back_when_it_is_collected(
    pooled, neighbour, no_gc, make, where
):
    pool = pooled(max_size=1)
    fill(5)
    rows = make()
    if isinstance(rows, Generator):
        next(rows)
    knot = Knot(rows)
    assert used(pool) == 1
    del rows, knot
    assert used(pool) == 1
    if where == "here":
        gc.collect()
        assert used(pool) == 0
    else:
        thread = threading.Thread(target=gc.collect)
        thread.start()
        thread.join()
    # The only connection: whoever comes by takes it.
    assert isinstance(neighbour.does(backend), int)
    assert used(pool) == 0
    assert isinstance(backend(), int)
    assert (pool.stats().leaks, pool.stats().size) == (0, 1)


def test_who_waits_already_is_served_when_another_thread_collects(pooled, neighbour, no_gc):
    pool = pooled(max_size=1, timeout=PATIENCE)
    knot = Knot(connection.cursor())
    waiting = neighbour.starts(backend)
    wait_until(lambda: pool.stats().waiters == 1)
    del knot
    thread = threading.Thread(target=gc.collect)
    thread.start()
    thread.join()
    assert isinstance(waiting.result(PATIENCE / 2), int)


def test_the_owner_goes_on_when_another_thread_collects_one_of_its_cursors(
    pooled, server, neighbour, no_gc
):
    pool = pooled(max_size=2)
    with transaction.atomic():
        knot = Knot(connection.cursor())
        create("one")
        del knot
        thread = threading.Thread(target=gc.collect)
        thread.start()
        thread.join()
        assert neighbour.does(backend) != backend()
        assert used(pool) == 1
        create("two")
    assert server.names == ["one", "two"]
    assert used(pool) == 0


def test_cursors_that_die_inside_the_lock_of_the_pool_do_not_lock_it(pooled, monkeypatch):
    pool = pooled(max_size=2)
    create("connected")
    lend = type(pool)._lend_locked
    knots: list[Any] = []

    def collecting(self, *args: Any) -> None:
        if knots:
            knots.clear()
            gc.collect()
        lend(self, *args)

    monkeypatch.setattr(type(pool), "_lend_locked", collecting)
    for _ in range(5):
        cursor = connection.cursor()
        knots.append(Knot(cursor))
        del cursor
        lease = pool.acquire()
        lease.release()
    connection.close()
    pool.acquire().release()
    stats = pool.stats()
    assert (stats.used, stats.idle, stats.size) == (0, stats.size, len(set(pool._pool)))
    assert stats.leaks == 0


# -- one backend from the first row to the last


def test_a_loop_over_an_iterator_has_one_backend_throughout(pooled, neighbour):
    pool = pooled(max_size=3)
    fill(7)
    before = acquired(pool)
    backends = set()
    for item in Item.objects.order_by("pk").iterator(chunk_size=2):
        backends.add(backend())
        item.save()
        Item.objects.get_or_create(name="made once")
        with transaction.atomic():
            backends.add(backend())
            Item.objects.filter(pk=item.pk).update(name="changed")
        backends.add(backend())
    assert len(backends) == 1
    assert acquired(pool) == before + 1
    assert used(pool) == 0


def test_two_iterators_at_once_share_a_lease_to_the_end_of_the_last(pooled):
    pool = pooled(max_size=2)
    fill(6)
    one: Any = Item.objects.order_by("pk").iterator(chunk_size=2)
    two: Any = Item.objects.order_by("-pk").iterator(chunk_size=2)
    pairs = [(next(one).pk, next(two).pk)]
    assert used(pool) == 1
    pairs.append((next(one).pk, next(two).pk))
    one.close()
    assert used(pool) == 1
    assert len(list(two)) == 4
    assert used(pool) == 0
    assert pairs[0][0] < pairs[1][0] < pairs[1][1] < pairs[0][1]

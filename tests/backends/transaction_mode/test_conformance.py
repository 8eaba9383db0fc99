"""What a release after each statement loses if it is done carelessly, as seen by the server.

Eight ways in which rows, locks or slots have been lost by pools that give a connection back
between statements. Each test looks from outside: at the rows that a second connection sees, at
backends, at locks, and at what a neighbour on the same pool can get.
"""

from __future__ import annotations

import pytest
from django.core.exceptions import ObjectDoesNotExist
from django.db import DatabaseError, transaction

from django_poolkit import PoolTimeout
from tests.app.models import Item
from tests.backends.transaction_mode.support import (
    SOON,
    Broken,
    backend,
    connection,
    create,
    fill,
    pins,
    scalar,
    used,
)

pytestmark = pytest.mark.core


# -- 1: an alias with AUTOCOMMIT False


def test_with_autocommit_off_by_settings_a_commit_keeps_what_was_written(pooled, server):
    pool = pooled(max_size=2, entry={"AUTOCOMMIT": False})
    create("first")
    create("second")
    assert server.names == []
    assert used(pool) == 1
    transaction.commit()
    assert server.names == ["first", "second"]
    # It is held between two transactions as well, and by those who turn autocommit on.
    connection.cursor().close()
    assert used(pool) == 1
    transaction.set_autocommit(True)
    create("third")
    assert used(pool) == 1
    connection.close()
    assert used(pool) == 0
    assert server.names == ["first", "second", "third"]


def test_with_autocommit_off_by_settings_all_of_it_is_one_transaction(pooled, server, neighbour):
    pool = pooled(max_size=2, entry={"AUTOCOMMIT": False})
    mine = backend()
    create("undone")
    assert neighbour.begins() != mine
    assert backend() == mine
    transaction.rollback()
    neighbour.rolls_back()
    create("never committed")
    assert used(pool) >= 1
    connection.close()
    assert server.names == []


# -- 2: an iterator opened outside of atomic(), exhausted inside


@pytest.mark.parametrize("server_side", [True, False])
def test_an_iterator_that_ends_inside_a_block_does_not_end_the_block(pooled, server, server_side):
    pool = pooled(max_size=2, entry={"DISABLE_SERVER_SIDE_CURSORS": not server_side})
    fill(5)
    items = Item.objects.iterator(chunk_size=2)
    next(items)
    with transaction.atomic():
        create("before the end")
        mine = backend()
        assert len(list(items)) == 4
        assert backend() == mine
        assert server.backends[mine] == "idle in transaction"
        create("after the end")
    assert {"before the end", "after the end"} <= set(server.names)
    assert used(pool) == 0


def test_a_cursor_that_is_closed_inside_a_block_does_not_end_the_block(pooled, server):
    pool = pooled(max_size=2)
    cursor = connection.cursor()
    cursor.execute("SELECT 1")
    with transaction.atomic():
        create("before")
        cursor.close()
        create("after")
    assert server.names == ["after", "before"]
    assert used(pool) == 0


# -- 3: writes in the loop of an iterator


def save_in_a_block(item: Item) -> None:
    with transaction.atomic():
        item.name = f"seen {item.name}"
        item.save()


def get_or_create(item: Item) -> None:
    Item.objects.get_or_create(name=f"seen {item.name}")


def bulk_create(item: Item) -> None:
    Item.objects.bulk_create([Item(name=f"seen {item.name}")])


def replace(item: Item) -> None:
    item.delete()
    create(f"seen {item.name}")


def fail_and_write(item: Item) -> None:
    with pytest.raises(Broken), transaction.atomic():
        create("undone")
        raise Broken
    create(f"seen {item.name}")


@pytest.mark.parametrize(
    "write", [save_in_a_block, get_or_create, bulk_create, replace, fail_and_write]
)
def test_nobody_gets_the_connection_of_an_iterator_whose_loop_writes(
    pooled, server, neighbour, write
):
    pool = pooled(max_size=2)
    fill(6)
    backends = set()
    for item in Item.objects.order_by("name").iterator(chunk_size=2):
        write(item)
        backends.add(backend())
        # Whatever is idle now, the neighbour takes, works on, and takes back.
        assert neighbour.begins() not in backends
        neighbour.does(create, "the neighbour's own")
        neighbour.rolls_back()
    assert {f"seen row{n:03}" for n in range(6)} <= set(server.names)
    assert not {"the neighbour's own", "undone"} & set(server.names)
    assert len(backends) == 1
    assert used(pool) == 0
    assert set(server.backends.values()) == {"idle"}


def test_the_connection_of_an_iterator_is_not_idle_after_the_first_commit(pooled, neighbour):
    pool = pooled(max_size=1)
    fill(6)
    items = Item.objects.iterator(chunk_size=2)
    get_or_create(next(items))
    assert (pool.stats().used, pool.stats().idle) == (1, 0)
    pool.timeout = SOON
    with pytest.raises(PoolTimeout):
        neighbour.does(backend)
    assert len(list(items)) == 5
    assert isinstance(neighbour.does(backend), int)


# -- 4: several cursors


@pytest.mark.parametrize("first", [0, 1], ids=["older first", "newer first"])
def test_a_lease_ends_with_the_last_of_its_cursors(pooled, server, neighbour, first):
    pool = pooled(max_size=2)
    cursors = [connection.cursor(), connection.cursor()]
    for cursor in cursors:
        cursor.execute("SELECT pg_backend_pid()")
    [mine] = {cursor.fetchone()[0] for cursor in cursors}
    cursors.pop(first).close()
    assert used(pool) == 1
    assert neighbour.begins() != mine
    [last] = cursors
    last.execute("INSERT INTO app_item (name, created) VALUES ('mine', now())")
    neighbour.rolls_back()
    assert server.names == ["mine"]
    last.close()
    assert used(pool) == 0


# -- 5: session state


def test_an_advisory_lock_is_unlocked_by_the_session_that_took_it(pooled, server, neighbour):
    pool = pooled(max_size=2)
    scalar("SELECT pg_advisory_lock(4711)")
    assert neighbour.begins() != server.locks[4711]
    assert server.locks == {4711: backend()}
    assert scalar("SELECT pg_advisory_unlock(4711)") is True
    assert server.locks == {}
    neighbour.rolls_back()
    connection.close()
    assert used(pool) == 0


def test_a_forgotten_advisory_lock_ends_with_the_request(pooled, server):
    pooled(max_size=1)
    scalar("SELECT pg_advisory_lock(4711)")
    assert list(server.locks) == [4711]
    connection.close()
    assert server.locks == {}


def test_what_is_set_holds_for_each_statement_that_follows_and_for_nobody_else(pooled, neighbour):
    pool = pooled(max_size=3)
    scalar("SET search_path TO pg_catalog")
    for _ in range(4):
        assert neighbour.does(scalar, "SHOW search_path") == '"$user", public'
        assert scalar("SHOW search_path") == "pg_catalog"
    assert pins(pool) == {"set": 1}
    connection.close()
    assert scalar("SHOW search_path") == '"$user", public'


@pytest.mark.parametrize(("end", "kept"), [("ROLLBACK", []), ("COMMIT", ["by hand", "by the ORM"])])
def test_a_transaction_begun_by_text_is_one(pooled, server, neighbour, end, kept):
    pooled(max_size=2)
    scalar("BEGIN")
    scalar("INSERT INTO app_item (name, created) VALUES ('by hand', now())")
    assert neighbour.begins() != backend()
    create("by the ORM")
    neighbour.rolls_back()
    assert server.names == []
    scalar(end)
    assert server.names == kept


# -- 6: set_autocommit(False)


def test_autocommit_stays_off_beyond_the_first_commit(pooled, server, neighbour):
    pool = pooled(max_size=2)
    transaction.set_autocommit(False)
    create("committed")
    transaction.commit()
    create("rolled back")
    transaction.rollback()
    assert server.names == ["committed"]
    mine = backend()
    transaction.rollback()
    connection.cursor().close()
    assert neighbour.begins() != mine
    create("committed, too")
    neighbour.rolls_back()
    transaction.commit()
    assert server.names == ["committed", "committed, too"]
    transaction.set_autocommit(True)
    assert used(pool) == 0
    create("at once")
    assert "at once" in server.names


# -- 7: verbs that look at the connection without a cursor


@pytest.mark.parametrize(
    "look",
    [
        lambda: connection.get_autocommit(),
        lambda: connection.ensure_connection(),
        lambda: connection.is_usable(),
        lambda: connection.pg_version,
        lambda: connection.connect(),
        lambda: transaction.on_commit(lambda: None),
        lambda: transaction.get_autocommit(),
    ],
    ids=[
        "get_autocommit", "ensure_connection", "is_usable", "pg_version", "connect", "on_commit",
        "transaction",
    ],
)  # fmt: skip
@pytest.mark.parametrize("when", ["first", "later"])
def test_to_look_at_a_connection_is_not_to_hold_it(pooled, neighbour, look, when):
    pool = pooled(max_size=1)
    if when == "later":
        create("connected")
    look()
    assert used(pool) == 0
    # And neither are the statements that follow.
    for _ in range(3):
        assert backend() == neighbour.does(backend)
        assert used(pool) == 0
    assert pins(pool) == {}


# -- 8: hooks that fail after the commit


@pytest.mark.parametrize("error", [Broken, DatabaseError, ObjectDoesNotExist])
@pytest.mark.parametrize("where", ["atomic", "set_autocommit", "outside"])
def test_a_hook_that_fails_holds_nothing_and_undoes_nothing(
    pooled, server, neighbour, error, where
):
    pool = pooled(max_size=1)

    def fail() -> None:
        assert used(pool) == 0
        raise error("in the hook")

    if where == "atomic":
        with pytest.raises(error, match="in the hook"), transaction.atomic():
            create("committed")
            transaction.on_commit(fail)
    elif where == "set_autocommit":
        transaction.set_autocommit(False)
        with transaction.atomic():
            create("committed")
            transaction.on_commit(fail)
        transaction.commit()
        with pytest.raises(error, match="in the hook"):
            transaction.set_autocommit(True)
    else:
        create("committed")
        with pytest.raises(error, match="in the hook"):
            transaction.on_commit(fail)
    assert server.names == ["committed"]
    assert used(pool) == 0
    assert connection.get_autocommit()
    neighbour.does(create, "the neighbour's")
    create("the next")
    assert server.names == ["committed", "the neighbour's", "the next"]


def test_a_statement_that_fails_in_a_hook_leaves_the_commit_alone(pooled, server):
    pool = pooled(max_size=1)
    with pytest.raises(DatabaseError), transaction.atomic():
        create("committed")
        transaction.on_commit(lambda: scalar("SELECT 1 / 0"))
    assert server.names == ["committed"]
    assert used(pool) == 0

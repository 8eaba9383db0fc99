"""How a block of atomic() ends: under cursors, in errors, and with a server that goes."""

from __future__ import annotations

import pytest
from django.db import (
    IntegrityError,
    OperationalError,
    ProgrammingError,
    transaction,
)

from tests.app.models import Item
from tests.backends.transaction_mode.support import (
    Broken,
    backend,
    connection,
    create,
    fill,
    scalar,
    used,
)

pytestmark = pytest.mark.core


# -- cursors around it


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_a_cursor_open_around_a_block_keeps_the_lease_beyond_it(pooled, server, neighbour, end):
    pool = pooled(max_size=2)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        mine = cursor.fetchone()[0]
        try:
            with transaction.atomic():
                assert backend() == mine
                create("in the block")
                if end == "rollback":
                    raise Broken
        except Broken:
            pass
        assert used(pool) == 1
        assert neighbour.begins() != mine
        cursor.execute("INSERT INTO app_item (name, created) VALUES ('later', now())")
        neighbour.rolls_back()
        assert "later" in server.names
        assert server.backends[mine] == "idle"
    assert used(pool) == 0
    assert server.names == (["in the block", "later"] if end == "commit" else ["later"])


def test_rows_of_an_iterator_begun_outside_survive_a_rollback(pooled):
    pool = pooled(max_size=2)
    fill(6)
    items = Item.objects.order_by("name").iterator(chunk_size=2)
    next(items)
    with pytest.raises(Broken), transaction.atomic():
        create("undone")
        raise Broken
    assert [item.name for item in items] == [f"row{n:03}" for n in range(1, 6)]
    assert used(pool) == 0


def test_a_cursor_left_open_inside_ends_with_its_owner(pooled, server):
    pool = pooled(max_size=1)
    with transaction.atomic():
        cursor = connection.cursor()
        cursor.execute("SELECT 1")
        create("committed")
    assert server.names == ["committed"]
    assert used(pool) == 1
    del cursor
    assert used(pool) == 0


# -- how it may go wrong


@pytest.mark.parametrize("before", ["nothing", "a row"])
def test_to_close_inside_a_block_is_refused_as_with_django(pooled, server, before):
    pool = pooled(max_size=2)
    create("connected")
    with transaction.atomic():
        if before == "a row":
            create("undone")
        connection.close()
        with pytest.raises(ProgrammingError, match="in an atomic block"):
            create("refused")
        with pytest.raises(ProgrammingError):
            connection.get_autocommit()
    assert used(pool) == 0
    assert server.names == ["connected"]
    assert connection.get_autocommit()
    create("the next")
    assert server.names == ["connected", "the next"]


def test_a_backend_that_dies_in_a_block_takes_that_block_alone(pooled, server, primary):
    pool = pooled(max_size=2)
    with pytest.raises(OperationalError), transaction.atomic():
        create("lost")
        primary.kill_backend(backend())
        create("refused")
    assert used(pool) == 0
    create("the next")
    assert server.names == ["the next"]


def test_a_backend_that_dies_before_the_commit_is_an_error(pooled, server, primary):
    pool = pooled(max_size=2)
    with pytest.raises(OperationalError), transaction.atomic():
        create("lost")
        primary.kill_backend(backend())
    assert server.names == []
    assert used(pool) == 0
    create("the next")
    assert connection.get_autocommit()


def test_a_commit_that_the_server_refuses_is_rolled_back(pooled, server):
    pool = pooled(max_size=1)
    server.run(
        "CREATE TABLE deferred (n int UNIQUE DEFERRABLE INITIALLY DEFERRED)",
    )
    ran = []
    try:
        with pytest.raises(IntegrityError), transaction.atomic():
            transaction.on_commit(lambda: ran.append("hook"))
            scalar("INSERT INTO deferred VALUES (1), (1)")
            create("undone")
    finally:
        server.run("DROP TABLE deferred")
    assert ran == []
    assert server.names == []
    assert used(pool) == 0
    create("the next")

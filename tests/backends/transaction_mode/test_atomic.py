"""A block of atomic() has one connection from its first statement to its end, and no longer."""

from __future__ import annotations

import pytest
from django.db import (
    IntegrityError,
    OperationalError,
    transaction,
)
from django.db.transaction import TransactionManagementError
from django.test.utils import CaptureQueriesContext

from django_poolkit import PoolTimeout
from tests.app.models import Item
from tests.backends.transaction_mode.support import (
    SOON,
    Broken,
    acquired,
    backend,
    connection,
    create,
    pins,
    scalar,
    used,
)

pytestmark = pytest.mark.core


# -- when it begins


def test_a_block_leases_at_its_first_statement(pooled, neighbour):
    pool = pooled(max_size=1)
    create("connected")
    before = acquired(pool)
    with transaction.atomic(), transaction.atomic(savepoint=False):
        assert not connection.get_autocommit()
        assert used(pool) == 0
        # As if it called something slow: the neighbour works meanwhile.
        neighbour.does(create, "the neighbour's")
        assert acquired(pool) == before + 1
        create("mine")
        assert used(pool) == 1
        create("mine, too")
    assert used(pool) == 0
    assert acquired(pool) == before + 2
    assert Item.objects.count() == 4


@pytest.mark.parametrize("end", ["ends", "raises", "is rolled back"])
def test_a_block_without_a_statement_needs_no_connection(pooled, neighbour, end):
    pool = pooled(max_size=1)
    create("connected")
    neighbour.begins()
    before = acquired(pool)
    pool.timeout = SOON
    try:
        with transaction.atomic():
            if end == "is rolled back":
                transaction.set_rollback(True)
            if end == "raises":
                raise Broken
    except Broken:
        pass
    assert acquired(pool) == before
    assert connection.get_autocommit()
    neighbour.rolls_back()
    create("the next")


@pytest.mark.parametrize("statements", [0, 1])
def test_the_log_of_queries_shows_the_whole_transaction(pooled, statements):
    pooled(max_size=1)
    create("connected")
    with CaptureQueriesContext(connection) as queries, transaction.atomic():
        for _ in range(statements):
            create("one")
    logged = [query["sql"] for query in queries]
    assert (logged[0], logged[-1]) == ("BEGIN", "COMMIT")
    assert len(logged) == 2 + statements


def test_an_eager_block_leases_as_it_begins(pooled, neighbour):
    pool = pooled(max_size=1, atomic_lease="eager", timeout=SOON)
    create("connected")
    with transaction.atomic():
        assert used(pool) == 1
        with pytest.raises(PoolTimeout):
            neighbour.does(backend)
    assert used(pool) == 0
    neighbour.begins()
    reached = []
    with pytest.raises(PoolTimeout), transaction.atomic():
        reached.append("the block")
    assert reached == []
    neighbour.rolls_back()
    create("the next")


def test_the_first_statement_may_be_a_savepoint(pooled, server):
    pool = pooled(max_size=2)
    with transaction.atomic():
        with pytest.raises(Broken), transaction.atomic():
            create("undone")
            raise Broken
        create("kept")
        sid = connection.savepoint()
        create("undone")
        connection.savepoint_rollback(sid)
    assert server.names == ["kept"]
    assert used(pool) == 0


def test_a_block_that_gets_no_connection_fails_whole(pooled, server, neighbour):
    pool = pooled(max_size=1)
    create("connected")
    neighbour.begins()
    pool.timeout = SOON
    with pytest.raises(PoolTimeout), transaction.atomic():
        create("never")
    assert connection.get_autocommit()
    assert not connection.in_atomic_block
    neighbour.rolls_back()
    create("the next")
    assert server.names == ["connected", "the next"]
    assert used(pool) == 0


def test_an_acquire_that_fails_and_is_caught_does_not_break_the_block(pooled, server, neighbour):
    pool = pooled(max_size=1)
    create("connected")
    neighbour.begins()
    pool.timeout = SOON
    with transaction.atomic():
        with pytest.raises(PoolTimeout):
            scalar("SELECT 1")
        neighbour.rolls_back()
        create("second try")
        assert server.names == ["connected"]
    assert server.names == ["connected", "second try"]


# -- what holds inside


def test_a_block_stays_on_one_backend(pooled, neighbour):
    pool = pooled(max_size=3)
    with transaction.atomic():
        mine = backend()
        for _ in range(4):
            assert neighbour.begins() != mine
            assert backend() == mine
            list(Item.objects.iterator())
            with transaction.atomic():
                assert backend() == mine
            neighbour.rolls_back()
        assert used(pool) == 1
    assert used(pool) == 0


def test_nothing_is_seen_before_the_end(pooled, server):
    pooled(max_size=2)
    with transaction.atomic():
        create("one")
        with transaction.atomic():
            create("two")
        assert server.names == []
        assert list(server.backends.values()) == ["idle in transaction"]
    assert server.names == ["one", "two"]
    assert list(server.backends.values()) == ["idle"]


@pytest.mark.parametrize("savepoint", [True, False])
def test_a_block_that_raises_writes_nothing(pooled, server, savepoint):
    pool = pooled(max_size=2)
    with pytest.raises(Broken), transaction.atomic():
        create("one")
        with transaction.atomic(savepoint=savepoint):
            create("two")
            raise Broken
    assert server.names == []
    assert used(pool) == 0
    assert connection.get_autocommit()


def test_an_inner_block_without_savepoint_takes_the_outer_down(pooled, server):
    pool = pooled(max_size=2)
    with transaction.atomic():
        create("one")
        with pytest.raises(Broken), transaction.atomic(savepoint=False):
            raise Broken
        with pytest.raises(TransactionManagementError):
            create("refused")
    assert server.names == []
    assert used(pool) == 0


def test_set_rollback_and_durable_work_as_with_django(pooled, server):
    pool = pooled(max_size=2)
    with transaction.atomic():
        create("undone")
        transaction.set_rollback(True)
    with transaction.atomic(durable=True):
        create("kept")
        with pytest.raises(RuntimeError), transaction.atomic(durable=True):
            pass
    assert server.names == ["kept"]
    assert used(pool) == 0


def test_an_integrity_error_can_be_caught_inside(pooled, server):
    pool = pooled(max_size=2)
    with transaction.atomic():
        first = create("kept")
        with pytest.raises(IntegrityError), transaction.atomic():
            Item.objects.create(pk=first.pk, name="twice")
        create("kept, too")
    with pytest.raises(TransactionManagementError), transaction.atomic():
        with pytest.raises(IntegrityError):
            Item.objects.create(pk=first.pk, name="twice")
        create("refused")
    assert server.names == ["kept", "kept, too"]
    assert used(pool) == 0


def test_a_row_lock_is_held_to_the_end_of_the_block(pooled, neighbour):
    pooled(max_size=2)
    create("locked")

    def grab() -> int:
        with transaction.atomic():
            return len(Item.objects.select_for_update(nowait=True))

    with transaction.atomic():
        Item.objects.select_for_update().get()
        Item.objects.count()
        with pytest.raises(OperationalError):
            neighbour.does(grab)
    assert neighbour.does(grab) == 1


def test_an_isolation_level_of_the_alias_holds_in_each_block(pooled, neighbour):
    from psycopg import IsolationLevel

    pool = pooled(max_size=2, options={"isolation_level": IsolationLevel.REPEATABLE_READ})
    for n in range(2):
        with transaction.atomic():
            assert scalar("SHOW transaction_isolation") == "repeatable read"
            before = Item.objects.count()
            neighbour.does(create, f"meanwhile {n}")
            assert Item.objects.count() == before == n
    assert used(pool) == 0
    assert pins(pool) == {}

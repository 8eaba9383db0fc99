"""`verify_state` behind Django: what a trigger sets is raised by what ends the lease."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from django.db import Error, connections, transaction
from django.db import connection as default_connection
from django.db.backends.signals import connection_created

from django_poolkit import SessionStateLeft, registry
from django_poolkit.pools.postgres import ConnectionPool
from tests.app.models import Item

pytestmark = [pytest.mark.core, pytest.mark.django_db(transaction=True)]
# Typed by django-stubs as any backend's.
connection: Any = default_connection


def run(statement: str) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchone() if cursor.description else None


@pytest.fixture
def pooled() -> Iterator[Callable[..., ConnectionPool]]:
    """Return a function that sets the pool's options, with `verify_state`."""
    options = connections.settings["default"]["OPTIONS"]
    before = dict(options)

    def change(**pool: Any) -> ConnectionPool:
        connections.close_all()
        registry.pools.close_all()
        options["pool"] = {"verify_state": True, "max_size": 1, **pool}
        made: ConnectionPool = connection.pool
        return made

    yield change
    connection.close()
    options.clear()
    options.update(before)
    registry.pools.close_all()


@pytest.fixture
def trigger() -> Iterator[None]:
    """Have each new item set something in the session."""
    table = Item._meta.db_table
    run(
        "CREATE FUNCTION remember() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "PERFORM set_config('app.last', NEW.name, false); RETURN NEW; END $$"
    )
    run(f"CREATE TRIGGER remember AFTER INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION remember()")
    connection.close()
    yield
    run("DROP FUNCTION remember CASCADE")
    connection.close()


def last() -> Any:
    """Return what the trigger of the one before has left."""
    (value,) = run("SELECT coalesce(current_setting('app.last', true), '')")
    return value


with_trigger = pytest.mark.usefixtures("trigger")


@with_trigger
def test_in_session_mode_close_raises_it(pooled):
    pool = pooled()
    Item.objects.create(name="a secret")
    with pytest.raises(SessionStateLeft) as caught:
        connection.close()
    assert caught.value.left == ("setting app.last",)
    assert "a secret" not in str(caught.value)
    assert connection.connection is None
    assert last() == ""
    assert (pool.stats().used, pool.stats().closed) == (1, {})


@with_trigger
def test_in_transaction_mode_the_statement_raises_it(pooled):
    pool = pooled(mode="transaction")
    with pytest.raises(SessionStateLeft) as caught:
        Item.objects.create(name="one")
    assert caught.value.left == ("setting app.last",)
    assert (pool.stats().used, pool.stats().idle) == (0, 1)
    assert last() == ""
    assert Item.objects.count() == 1
    assert sum(pool.stats().pins.values()) == 0


@with_trigger
def test_in_transaction_mode_the_block_raises_it_and_has_committed(pooled):
    pool = pooled(mode="transaction")
    with pytest.raises(SessionStateLeft), transaction.atomic():
        Item.objects.create(name="one")
    assert not connection.in_atomic_block
    assert connection.get_autocommit()
    assert (pool.stats().used, pool.stats().idle) == (0, 1)
    assert Item.objects.count() == 1


@with_trigger
def test_a_pinned_block_is_the_remedy(pooled):
    pool = pooled(mode="transaction")
    with connection.pinned():
        Item.objects.create(name="one")
        assert last() == "one"
    assert last() == ""
    assert (pool.stats().used, pool.stats().closed) == (0, {})


@with_trigger
def test_what_was_rolled_back_is_not_raised(pooled):
    pool = pooled(mode="transaction")
    with transaction.atomic():
        Item.objects.create(name="one")
        transaction.set_rollback(True)
    assert pool.stats().resets == 0


@with_trigger
def test_who_catches_errors_of_the_database_does_not_hide_it(pooled):
    pooled(mode="transaction")
    with pytest.raises(SessionStateLeft), suppress(Error):
        Item.objects.create(name="one")


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_the_orm_leaves_nothing(pooled, mode):
    pool = pooled(mode=mode, reset="dirty")
    Item.objects.bulk_create(Item(name=f"{n}") for n in range(10))
    with transaction.atomic():
        list(Item.objects.select_for_update().order_by("name"))
        Item.objects.filter(name="1").update(name="one")
    assert len(list(Item.objects.iterator(chunk_size=2))) == 10
    Item.objects.all().delete()
    connection.close()
    assert (pool.stats().resets, pool.stats().closed) == (0, {})


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_what_a_receiver_of_a_new_connection_sets_is_not_left(pooled, mode):
    def prepare(connection: Any, **kwargs: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SET work_mem TO '7MB'")

    connection_created.connect(prepare)
    try:
        pooled(mode=mode)
        for _ in range(2):
            Item.objects.count()
            assert run("SHOW work_mem") == ("7MB",)
            run("SELECT set_config('app.tenant', '7', false)")
            connection.close()
    finally:
        connection_created.disconnect(prepare)


def test_the_time_zone_and_the_role_of_the_settings_are_not_left(pooled):
    pooled(mode="transaction", statement_timeout="20s")
    connection.settings_dict["OPTIONS"]["assume_role"] = "pg_monitor"
    try:
        assert run("SELECT current_user") == ("pg_monitor",)
        assert run("SELECT 1") == (1,)
    finally:
        connection.close()
        del connection.settings_dict["OPTIONS"]["assume_role"]

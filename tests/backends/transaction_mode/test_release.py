"""Outside of a transaction the lease ends with the statement, whatever the statement is."""

from __future__ import annotations

import threading

import pytest
from django.contrib.auth.models import Group, Permission, User
from django.db import DatabaseError, IntegrityError, OperationalError, models
from django.db.models import Count
from django.test.utils import CaptureQueriesContext, isolate_apps

from django_poolkit import PoolTimeout
from tests.app.models import Item
from tests.backends.transaction_mode.support import (
    SOON,
    acquired,
    backend,
    connection,
    create,
    fill,
    pins,
    scalar,
    used,
)

pytestmark = pytest.mark.core

DUPLICATE = "INSERT INTO app_item (id, name, created) VALUES (1, 'x', now()), (1, 'x', now())"


def prefetch() -> object:
    user = User.objects.create_user("somebody")
    group = Group.objects.create(name="some")
    user.groups.add(group)
    group.permissions.set(Permission.objects.all()[:3])
    return list(User.objects.prefetch_related("groups__permissions"))


def get_nothing() -> None:
    with pytest.raises(Item.DoesNotExist):
        Item.objects.get(pk=-1)


ORM = {
    "create": lambda: create("another"),
    "save": lambda: Item(name="another").save(),
    "update": lambda: Item.objects.update(name="same"),
    "delete": lambda: Item.objects.all().delete(),
    "delete one": lambda: Item.objects.earliest("pk").delete(),
    "bulk_create": lambda: Item.objects.bulk_create([Item(name="a"), Item(name="b")]),
    "bulk_update": lambda: Item.objects.bulk_update(Item.objects.all(), ["name"]),
    "get": lambda: Item.objects.get(name="row001"),
    "get nothing": get_nothing,
    "get_or_create": lambda: Item.objects.get_or_create(name="another"),
    "update_or_create": lambda: Item.objects.update_or_create(name="row001"),
    "list": lambda: list(Item.objects.all()),
    "first": lambda: Item.objects.first(),
    "exists": lambda: Item.objects.exists(),
    "count": lambda: Item.objects.count(),
    "aggregate": lambda: Item.objects.aggregate(models.Max("pk")),
    "values": lambda: list(Item.objects.values("name").annotate(Count("pk"))),
    "in_bulk": lambda: Item.objects.in_bulk(),
    "union": lambda: list(Item.objects.all().union(Item.objects.filter(pk=1))),
    "explain": lambda: Item.objects.all().explain(),
    "raw": lambda: list(Item.objects.raw("SELECT * FROM app_item")),
    "iterator": lambda: list(Item.objects.iterator(chunk_size=2)),
    "values_list iterator": lambda: list(Item.objects.values_list("pk").iterator(2)),
    "refresh": lambda: Item.objects.earliest("pk").refresh_from_db(),
    "prefetch": prefetch,
    "none": lambda: list(Item.objects.none()),
}


@pytest.mark.parametrize("name", ORM)
def test_the_orm_holds_nothing_between_its_statements(pooled, server, name):
    pool = pooled(max_size=1)
    fill(5)
    assert used(pool) == 0
    ORM[name]()
    assert used(pool) == 0
    assert set(server.backends.values()) == {"idle"}
    assert pins(pool) == {}
    assert pool.stats().resets == 0


def test_each_statement_has_a_lease_of_its_own(pooled):
    pool = pooled(max_size=4)
    create("one")
    before = acquired(pool)
    for _ in range(5):
        Item.objects.count()
    assert acquired(pool) == before + 5
    assert pool.stats().connects == 1


def test_a_neighbour_gets_the_only_connection_between_two_statements(pooled, neighbour):
    pool = pooled(max_size=1)
    assert backend() == neighbour.does(backend) == backend()
    assert pool.stats().waited <= 1  # the first of all, for the connect


def test_more_threads_than_connections_are_served_in_turns(pooled):
    pool = pooled(max_size=2, timeout=20.0)
    errors: list[BaseException] = []
    ready = threading.Barrier(16)

    def work() -> None:
        try:
            ready.wait()
            for n in range(10):
                create(f"{threading.current_thread().name} {n}")
                Item.objects.count()
            # No close() yet: nothing is held.
            ready.wait()
        except BaseException as error:
            ready.abort()
            errors.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert Item.objects.count() == 160
    assert pool.stats().size <= 2
    assert pool.stats().timeouts == 0


@pytest.mark.parametrize(
    ("fails", "error"),
    [
        (DUPLICATE, IntegrityError),
        ("SELECT 1 / 0", DatabaseError),
        ("TABLE nowhere", DatabaseError),
    ],
    ids=["integrity", "data", "table"],
)
def test_a_statement_that_fails_holds_nothing(pooled, neighbour, fails, error):
    pool = pooled(max_size=1)
    with pytest.raises(error):
        scalar(fails)
    assert used(pool) == 0
    assert neighbour.does(backend) == backend()
    create("the next")
    assert not connection.errors_occurred
    assert used(pool) == 0


def test_an_error_of_one_connection_is_not_held_against_the_next(pooled, neighbour):
    pool = pooled(max_size=2)
    mine = backend()
    with pytest.raises(DatabaseError):
        scalar("TABLE nowhere")
    assert connection.errors_occurred
    assert neighbour.begins() == mine
    assert backend() != mine
    assert not connection.errors_occurred
    neighbour.rolls_back()
    assert pool.stats().size == 2


def test_a_backend_that_dies_between_statements_is_not_noticed(pooled, primary):
    pool = pooled(max_size=1)
    primary.kill_backend(backend())
    create("the next")
    assert pool.stats().closed["dead"] == 1


def test_a_backend_that_dies_in_a_statement_costs_that_statement(pooled):
    pool = pooled(max_size=1)
    with pytest.raises(OperationalError):
        scalar("SELECT pg_terminate_backend(pg_backend_pid())")
    assert used(pool) == 0
    create("the next")
    assert used(pool) == 0


def test_an_acquire_that_times_out_leaves_the_wrapper_as_it_was(pooled, neighbour):
    pool = pooled(max_size=1)
    neighbour.begins()
    pool.timeout = SOON
    with pytest.raises(PoolTimeout), connection.cursor():
        pass
    with pytest.raises(OperationalError):
        create("never")
    neighbour.rolls_back()
    create("the next")
    assert used(pool) == 0
    assert pool.stats().timeouts == 2


@pytest.mark.parametrize("atomic", [True, False])
def test_the_schema_editor_holds_nothing_when_it_is_done(pooled, server, atomic):
    pool = pooled(max_size=1)
    with isolate_apps("tests.app"):

        class Extra(models.Model):
            name = models.CharField(max_length=10, default="it's quoted", db_index=True)

            class Meta:
                app_label = "app"

    try:
        with connection.schema_editor(atomic=atomic) as editor:
            editor.create_model(Extra)
            extra = models.CharField(max_length=20, default="it's quoted as well")
            extra.set_attributes_from_name("extra")
            editor.add_field(Extra, extra)
        assert used(pool) == 0
        assert server.ask("SELECT count(*) FROM app_extra") == 0
        with connection.schema_editor(atomic=atomic) as editor:
            editor.delete_model(Extra)
    finally:
        server.run("DROP TABLE IF EXISTS app_extra")
    assert used(pool) == 0
    assert pins(pool) == {}


def test_introspection_holds_nothing(pooled):
    pool = pooled(max_size=1)
    assert "app_item" in connection.introspection.table_names()
    with connection.cursor() as cursor:
        connection.introspection.get_constraints(cursor, "app_item")
    assert connection.introspection.django_table_names(only_existing=True)
    assert used(pool) == 0
    assert pins(pool) == {}


def test_what_is_logged_for_debugging_changes_nothing(pooled):
    pool = pooled(max_size=1)
    with CaptureQueriesContext(connection) as queries:
        create("one")
        list(Item.objects.iterator())
    assert len(queries) == 2
    assert used(pool) == 0
    assert pins(pool) == {}


def test_execute_wrappers_see_each_statement(pooled):
    pool = pooled(max_size=1)
    seen = []

    def wrapper(execute, sql, params, many, context):
        seen.append((sql, used(pool)))
        return execute(sql, params, many, context)

    with connection.execute_wrapper(wrapper):
        Item.objects.count()
        create("one")
    assert len(seen) == 2
    assert used(pool) == 0


def test_two_aliases_hold_nothing_for_each_other(pooled):
    pool = pooled(max_size=1)
    other = connection.copy(alias="other")
    try:
        assert backend() == backend(using=other)
        assert used(pool) == 0
    finally:
        other.close()

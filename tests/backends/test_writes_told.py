"""`ports.note_write`: told of each statement that may write, on the alias that it runs on."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connection as default_connection
from django.db import connections, transaction

from django_poolkit import connection_pools, registry
from django_poolkit.backends import ports
from tests.app.models import Item

connection: Any = default_connection

pytestmark = [pytest.mark.core, pytest.mark.django_db(transaction=True)]


@pytest.fixture(params=["session", "transaction"])
def told(request, monkeypatch):
    """What has been told, on pools of either mode."""
    found: list[str] = []
    connections.close_all()
    registry.pools.close_all()
    options = connection.settings_dict["OPTIONS"]
    monkeypatch.setitem(options, "pool", {"max_size": 4, "mode": request.param})
    connection.ensure_connection()
    monkeypatch.setattr(ports, "note_write", found.append)
    yield found
    connections.close_all()
    registry.pools.close_all()


def run(sql: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql)


def test_reads_are_not_told(told):
    list(Item.objects.all())
    Item.objects.filter(pk=1).first()
    Item.objects.count()
    list(Item.objects.iterator())
    Item.objects.filter(name__contains="insert, for update").explain()
    for sql in ("SELECT now()", "SHOW port", "SET work_mem TO '8MB'", "TABLE app_item"):
        run(sql)
    assert told == []


def test_each_write_of_the_orm_is_told(told):
    item = Item.objects.create(name="one")
    assert told == ["default"]
    item.save()
    Item.objects.filter(pk=item.pk).update(name="two")
    item.delete()
    assert told == ["default"] * 4


def test_a_lock_of_rows_is_told_as_a_write(told):
    with transaction.atomic():
        list(Item.objects.select_for_update())
    assert told == ["default"]


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO app_item (name, created) VALUES ('x', now())",
        "UPDATE app_item SET name = 'y'",
        "WITH x AS (DELETE FROM app_item RETURNING 1) SELECT * FROM x",
        "SELECT name INTO told_of FROM app_item; DROP TABLE told_of",
        "EXPLAIN ANALYZE UPDATE app_item SET name = 'z'",
        "DO $$ BEGIN UPDATE app_item SET name = 'z'; END $$",
        "TRUNCATE app_item",
        "SELECT name FROM app_item FOR UPDATE",
        "SELECT name FROM app_item\nFOR KEY SHARE SKIP LOCKED",
        "CREATE TABLE told_of (a int); DROP TABLE told_of",
    ],
)
def test_each_write_of_raw_sql_is_told(told, sql):
    run(sql)
    assert set(told) == {"default"}


def test_copy_is_told(told):
    with (
        connection.cursor() as cursor,
        cursor.copy("COPY app_item (name, created) FROM STDIN") as c,
    ):
        c.write("x\t2026-01-01\n")
    assert told == ["default"]


def test_it_is_told_before_it_runs(told, monkeypatch):
    seen: list[int] = []

    def look(alias: str) -> None:
        with connection_pools["default"].lease() as other:
            seen.append(other.execute("SELECT count(*) FROM app_item").fetchone()[0])

    monkeypatch.setattr(ports, "note_write", look)
    Item.objects.create(name="one")
    assert seen == [0]


def test_later_writes_of_a_lease_are_told_as_well(told):
    # Of such a lease nothing else is left to be learnt, but each scope has to know for itself.
    run("SET work_mem TO '8MB'")
    for _ in range(3):
        run("UPDATE app_item SET name = 'y'")
    with transaction.atomic():
        for _ in range(2):
            run("UPDATE app_item SET name = 'y'")
    assert told == ["default"] * 5


def test_what_is_rolled_back_has_been_told(told):
    with transaction.atomic():
        Item.objects.create(name="one")
        transaction.set_rollback(True)
    assert told == ["default"]


def test_a_bare_pool_tells_for_the_aliases_that_it_serves(told):
    with connection_pools["default"].lease() as raw:
        raw.execute("UPDATE app_item SET name = 'y'")
    assert told == ["default"]


def test_who_refuses_a_write_stops_it(told, monkeypatch):
    def refuse(alias: str) -> None:
        raise RuntimeError("not here")

    monkeypatch.setattr(ports, "note_write", refuse)
    with pytest.raises(RuntimeError, match="not here"):
        Item.objects.create(name="one")
    monkeypatch.setattr(ports, "note_write", None)
    assert Item.objects.count() == 0
    Item.objects.create(name="two")
    assert Item.objects.count() == 1

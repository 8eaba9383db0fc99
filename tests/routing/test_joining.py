"""What the backend tells the router: of writes by every way, of locks; and who connects them."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.management.base import BaseCommand
from django.db import connection, connections, transaction
from django.db.models import Func, TextField, Value
from django.db.models.signals import pre_save

from django_poolkit import connection_pools
from django_poolkit.backends import ports
from django_poolkit.routing import LockOnReplica, choice, joining, scope, use_primary
from tests.app.models import Item
from tests.routing.conftest import alias_of

INSERT = "INSERT INTO app_item (name, created) VALUES ('new', now())"


def copied() -> None:
    with (
        connection.cursor() as cursor,
        cursor.copy("COPY app_item (name, created) FROM STDIN") as copy,
    ):
        copy.write_row(("new", "2026-01-01"))


def many() -> None:
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO app_item (name, created) VALUES (%s, now())", [("a",), ("b",)]
        )


def driver() -> None:
    # psycopg's own, as instrumentation and libraries reach it.
    with transaction.atomic():
        connection.ensure_connection()
        assert connection.connection is not None
        connection.connection.execute(INSERT)


def from_the_pool() -> None:
    with connection_pools["default"].lease() as leased:
        leased.execute(INSERT)


def prepared() -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"PREPARE adding AS {INSERT}")
        cursor.execute("EXECUTE adding")


def called() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT app_add()")


def made() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT * INTO copied FROM app_item")
        cursor.execute("DROP TABLE copied")


WAYS = [copied, many, driver, from_the_pool, prepared, called, made]


@pytest.mark.parametrize("write", WAYS)
@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_every_way_to_write_is_noticed(routed, write, mode):
    connections["default"].close()
    del connections["default"]
    connections.settings["default"]["OPTIONS"]["pool"]["mode"] = mode
    routed.primary.execute(
        f"CREATE OR REPLACE FUNCTION app_add() RETURNS void LANGUAGE sql AS $${INSERT}$$"
    )
    for _ in range(3):  # also where it is known
        with scope():
            assert alias_of() == "replica"
            write()
            assert alias_of() == "default"
        connection.close()


def test_what_may_write_on_a_replica_pins_nobody(routed):
    routed.primary.execute(
        "CREATE OR REPLACE FUNCTION app_one() RETURNS int LANGUAGE sql AS 'SELECT 1'"
    )
    routed.primary.wait_caught_up(routed.replicas[0])
    with scope(), connections["replica"].cursor() as cursor:
        cursor.execute("SELECT app_one()")
        assert cursor.fetchone() == (1,)
        assert alias_of() == "replica"


def test_what_an_alias_of_no_cluster_writes_pins_nobody(routed, settings):
    settings.POOLKIT = {"CLUSTERS": {"default": {"replicas": ["replica"]}}}
    with scope():
        joining.note_write("elsewhere")
        assert alias_of() == "replica"


def locking(kind: str) -> Any:
    return Item.objects.annotate(
        lock=Func(Value(1), function=f"pg_{kind}", output_field=TextField())
    ).values_list("lock", flat=True)


@pytest.mark.parametrize(
    "kind",
    ["advisory_lock", "try_advisory_lock_shared", "advisory_xact_lock", "try_advisory_xact_lock"],
)
def test_an_advisory_lock_on_a_replica_is_refused(paused, kind):
    with scope():
        for _ in range(3):
            with pytest.raises(LockOnReplica, match="'replica', which is a replica"):
                list(locking(kind))
        with use_primary():
            assert len(locking(kind)) == 1
    # It was not sent, and leaves the connection as it was.
    locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
    assert paused.replicas[0].execute(locks) == [(0,)]
    assert connection_pools["replica"].stats().used == 0
    connection.close()


def test_a_lock_by_a_cursor_is_the_primarys(routed):
    with scope(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(1)")
        cursor.execute("SELECT pg_advisory_unlock(1)")
    connection.close()


def test_what_says_lock_and_takes_none_is_read_as_ever(paused):
    with scope():
        assert list(Item.objects.filter(name="pg_advisory_lock")) == []
        assert len(locking("advisory_unlock")) == 1


def test_with_clusters_the_app_connects_all_of_it(routed, monkeypatch):
    for name in ("note_write", "note_lock", "choose_host"):
        monkeypatch.setattr(ports, name, None)
    monkeypatch.setattr(BaseCommand, "execute", BaseCommand.execute)
    connected = len(pre_save.receivers)
    for _ in range(2):
        joining.install()
    try:
        assert ports.note_write is joining.note_write
        assert ports.note_lock is joining.note_lock
        assert ports.choose_host is choice.host_for
        assert getattr(BaseCommand.execute, "poolkit", False)
        assert len(pre_save.receivers) == connected + 1
    finally:
        pre_save.disconnect(dispatch_uid="django_poolkit.stale_write")


def test_without_clusters_nothing_is_connected(monkeypatch, settings):
    settings.POOLKIT = {}
    for name in ("note_write", "note_lock", "choose_host"):
        monkeypatch.setattr(ports, name, None)
    before, connected = BaseCommand.execute, len(pre_save.receivers)
    joining.install()
    assert (ports.note_write, ports.note_lock, ports.choose_host) == (None, None, None)
    assert BaseCommand.execute is before
    assert len(pre_save.receivers) == connected

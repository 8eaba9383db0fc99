"""Those who prepare connections see each physical one once, and again after a reset."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import psycopg
import pytest
from django.db import DatabaseError, transaction
from django.db.backends.postgresql import base
from psycopg.types.string import StrDumper

from django_poolkit.backends.postgresql.base import PooledDatabaseWrapperMixin
from tests.app.models import Item
from tests.backends.transaction_mode.support import (
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


def set_lock_timeout(wrapper: Any) -> None:
    scalar("SET lock_timeout = '7s'", using=wrapper)


def test_the_signal_is_sent_once_for_each_physical_connection(pooled, neighbour, receiving):
    pool = pooled(max_size=2)
    seen = receiving()
    for _ in range(3):
        mine = backend()
        create("one")
        with transaction.atomic():
            create("two")
        connection.close()
    assert seen == [mine]
    with transaction.atomic():
        assert backend() == mine
        other = neighbour.does(backend)
    assert seen == [mine, other]
    connection.close()
    assert {backend(), neighbour.does(backend)} <= {mine, other}
    assert seen == [mine, other]
    assert used(pool) == 0


def test_the_signal_is_sent_again_after_a_reset(pooled, receiving):
    pool = pooled(max_size=1)
    seen = receiving()
    mine = backend()
    scalar("SET search_path TO pg_catalog")
    connection.close()
    assert backend() == mine
    assert seen == [mine, mine]
    assert pool.stats().resets == 1


def test_what_a_receiver_sets_is_in_force_on_every_lease(pooled, neighbour, receiving):
    pool = pooled(max_size=2)
    seen = receiving(set_lock_timeout)
    for _ in range(3):
        assert scalar("SHOW lock_timeout") == "7s"
        assert used(pool) == 0
    assert (pins(pool), pool.stats().resets) == ({}, 0)
    scalar("SET search_path TO pg_catalog")
    connection.close()
    assert scalar("SHOW lock_timeout") == "7s"
    with transaction.atomic():
        assert scalar("SHOW lock_timeout") == neighbour.does(scalar, "SHOW lock_timeout") == "7s"
    assert pins(pool) == {"set": 1}
    assert len(seen) == 3


def test_a_reported_setting_of_a_receiver_is_no_change(pooled, receiving):
    pool = pooled(max_size=1)
    receiving(lambda wrapper: scalar("SET search_path TO public, pg_catalog", using=wrapper))
    assert scalar("SHOW search_path") == "public, pg_catalog"
    create("one")
    assert used(pool) == 0
    assert pins(pool) == {}


def test_a_first_lease_in_a_block_that_rolls_back_undoes_nothing_of_a_receiver(pooled, receiving):
    pool = pooled(max_size=1)
    states = []

    def look(wrapper: Any) -> None:
        states.append((wrapper.in_atomic_block, wrapper.get_autocommit()))
        set_lock_timeout(wrapper)

    seen = receiving(look)
    with pytest.raises(Broken), transaction.atomic():
        create("undone")
        raise Broken
    assert scalar("SHOW lock_timeout") == "7s"
    assert states == [(False, True)]
    assert len(seen) == 1
    assert not Item.objects.exists()
    assert used(pool) == 0


def test_a_receiver_may_use_the_orm_and_blocks(pooled, server, receiving):
    pool = pooled(max_size=1)

    def write(wrapper: Any) -> None:
        with transaction.atomic():
            create("by the receiver")
            Item.objects.get_or_create(name="by the receiver, too")
        assert len(list(Item.objects.iterator(chunk_size=1))) == 2

    receiving(write)
    with pytest.raises(Broken), transaction.atomic():
        create("undone")
        raise Broken
    assert server.names == ["by the receiver", "by the receiver, too"]
    assert used(pool) == 0
    assert pins(pool) == {}


@pytest.mark.parametrize("inside", [False, True], ids=["autocommit", "atomic"])
@pytest.mark.parametrize("error", [Broken, DatabaseError])
def test_a_receiver_that_raises_loses_no_slot(pooled, server, receiving, inside, error):
    pool = pooled(max_size=2)
    failing = [True]

    def fail(wrapper: Any) -> None:
        if failing:
            raise error("the receiver")

    receiving(fail)
    for _ in range(5):
        with pytest.raises(error, match="the receiver"):
            if inside:
                with transaction.atomic():
                    create("never")
            else:
                create("never")
        assert used(pool) == 0
        assert connection.get_autocommit()
    failing.clear()
    create("at last")
    assert server.names == ["at last"]
    assert (used(pool), pool.stats().size) == (0, 1)
    assert pool.stats().leaks == 0


def test_a_receiver_that_leaves_a_transaction_open_is_told_so(pooled, receiving):
    pool = pooled(max_size=1)
    seen = receiving(lambda wrapper: scalar("BEGIN", using=wrapper))
    with pytest.raises(DatabaseError, match="connection_created"):
        create("never")
    assert len(seen) == 1
    assert used(pool) == 0


def test_threads_each_hear_of_what_they_connected(pooled, receiving):
    pool = pooled(max_size=3)
    seen = receiving()
    barrier = threading.Barrier(3)

    def work() -> None:
        with transaction.atomic():
            backend()
            barrier.wait(20)
        connection.close()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == len(set(seen)) == pool.stats().connects == 3


# -- wrapper classes in between


class Point(str):
    """A type that psycopg knows no adapter for unless the wrapper below registers it."""


class InstrumentedWrapper(base.DatabaseWrapper):
    """What PostGIS and django-prometheus do, at each connect."""

    connects: int
    executed: list[str]

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        connection = super().get_new_connection(conn_params)
        self.connects += 1
        connection.adapters.register_dumper(Point, StrDumper)
        executed, factory = self.executed, connection.cursor_factory

        class Recording(factory):  # type: ignore[misc,valid-type]
            def execute(self, query: Any, *args: Any, **kwargs: Any) -> Any:
                executed.append(str(query))
                return super().execute(query, *args, **kwargs)

        connection.cursor_factory = Recording
        return connection


class PooledWrapper(PooledDatabaseWrapperMixin, InstrumentedWrapper):
    """Theirs, with leases."""


@pytest.fixture
def instrumented(pooled) -> Iterator[Any]:
    """A pooled wrapper around the instrumented one."""
    pooled(max_size=2)
    wrapper: Any = PooledWrapper(deepcopy(connection.settings_dict), "instrumented")
    wrapper.connects, wrapper.executed = 0, []
    yield wrapper
    wrapper.close()
    wrapper.close_pool()


def test_a_wrapper_class_in_between_sees_each_physical_connection_once(instrumented):
    pids, depths = set(), set()
    for turn in range(100):
        with instrumented.cursor() as cursor:
            cursor.execute("SELECT %s::text, pg_backend_pid()", [Point("here")])
            there, pid = cursor.fetchone()
            assert there == "here"
            pids.add(pid)
            depths.add(len(type(cursor.cursor).__mro__))
        if turn % 10 == 0:
            instrumented.close()
    assert instrumented.connects == len(pids) == len(depths) == 1
    assert len(instrumented.executed) == 100
    assert acquired(instrumented.pool) == 100
    assert used(instrumented.pool) == 0
    assert pins(instrumented.pool) == {}


def test_what_it_prepared_survives_a_reset(instrumented):
    mine = scalar("SELECT pg_backend_pid()", using=instrumented)
    scalar("SET search_path TO pg_catalog", using=instrumented)
    instrumented.close()
    before = len(instrumented.executed)
    assert scalar("SELECT pg_backend_pid()", using=instrumented) == mine
    assert scalar("SELECT %s::text", Point("here"), using=instrumented) == "here"
    assert len(instrumented.executed) == before + 2


def test_one_that_fails_loses_no_slot(instrumented, monkeypatch):
    def fail(*args: Any) -> None:
        raise LookupError("the extension is not installed")

    monkeypatch.setattr("psycopg.adapt.AdaptersMap.register_dumper", fail)
    for _ in range(4):
        with pytest.raises(LookupError):
            instrumented.ensure_connection()
    monkeypatch.undo()
    assert scalar("SELECT 1", using=instrumented) == 1
    assert used(instrumented.pool) == 0
    assert instrumented.pool.stats().size == 1


def test_its_cursors_are_bound_to_the_lease_all_the_same(instrumented):
    cursor = instrumented.cursor()
    cursor.execute("SELECT 1")
    assert used(instrumented.pool) == 1
    instrumented.close()
    with pytest.raises(psycopg.InterfaceError):
        cursor.cursor.execute("SELECT 1")

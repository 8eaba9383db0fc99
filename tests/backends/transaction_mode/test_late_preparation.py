"""A connection that is there is prepared for what comes later: receivers, and new types."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from django.contrib.postgres.operations import HStoreExtension
from django.contrib.postgres.signals import (
    get_citext_oids,
    get_hstore_oids,
    register_type_handlers,
)
from django.db import transaction
from django.db.backends.signals import connection_created
from django.db.migrations.state import ProjectState
from psycopg.types.string import StrDumper

from tests.backends.transaction_mode.support import backend, connection, pins, scalar, used

pytestmark = pytest.mark.core


class Point(str):
    """A type that psycopg knows no adapter for, unless a receiver registers it."""


def both(neighbour: Any) -> tuple[int, int]:
    """Return this thread's backend, and the neighbour's, which has to be another one."""
    with transaction.atomic():
        return backend(), neighbour.does(backend)


def test_a_receiver_that_comes_late_sees_each_connection_once(pooled, neighbour, receiving):
    pool = pooled(max_size=2)
    pids = both(neighbour)
    seen = receiving()
    assert both(neighbour) == both(neighbour) == pids
    assert sorted(seen) == sorted(pids)
    assert (used(pool), pins(pool)) == (0, {})


def test_one_that_comes_as_another_is_run_is_not_passed_over(pooled, receiving):
    pooled(max_size=1)
    late: list[list[int]] = []

    def invite(wrapper: Any) -> None:
        if not late:
            late.append(receiving())

    receiving(invite)
    mine = [backend(), backend(), backend()]
    assert late == [mine[:1]]


def through_the_wrapper(wrapper: Any) -> Any:
    return wrapper.connection


def through_the_proxy(wrapper: Any) -> Any:
    return connection.connection


def through_a_cursor(wrapper: Any) -> Any:
    with wrapper.cursor() as cursor:
        return cursor.connection


@pytest.mark.parametrize("way", [through_the_wrapper, through_the_proxy, through_a_cursor])
def test_a_receiver_may_take_the_connection_and_pins_nothing(pooled, receiving, way):
    pool = pooled(max_size=1)

    def prepare(wrapper: Any) -> None:
        raw = way(wrapper)
        raw.adapters.register_dumper(Point, StrDumper)
        raw.execute("SET lock_timeout = '7s'")

    seen = receiving(prepare)
    for _ in range(3):
        assert scalar("SELECT %s::text", Point("here")) == "here"
        assert scalar("SHOW lock_timeout") == "7s"
        assert used(pool) == 0
        connection.close()
    assert len(seen) == 1
    assert (pins(pool), pool.stats().resets) == ({}, 0)


def test_outside_of_a_receiver_it_pins_as_ever(pooled, receiving):
    pool = pooled(max_size=1)
    receiving(through_the_wrapper)
    assert through_the_proxy(connection) is None
    connection.ensure_connection()
    assert isinstance(through_the_proxy(connection), psycopg.Connection)
    assert pins(pool) == {"raw": 1}


# -- new types


@pytest.fixture
def hstore(pooled, primary) -> Iterator[None]:
    """A database without the extension, with the receiver of `django.contrib.postgres`."""

    def forget() -> None:
        with primary.connect(dbname=connection.settings_dict["NAME"]) as observer:
            observer.execute("DROP EXTENSION IF EXISTS hstore")
        for cached in (get_hstore_oids, get_citext_oids):
            cached.cache_clear()  # type: ignore[attr-defined]

    forget()
    connection_created.connect(register_type_handlers)
    yield
    connection_created.disconnect(register_type_handlers)
    connection.close()
    forget()


def add_extension(*, atomic: bool) -> None:
    with connection.schema_editor(atomic=atomic) as editor:
        HStoreExtension().database_forwards("app", editor, ProjectState(), ProjectState())


def read() -> Any:
    return scalar("SELECT 'key => value'::hstore")


@pytest.mark.parametrize("atomic", [True, False], ids=["atomic", "not atomic"])
def test_an_extension_is_known_on_every_connection(hstore, pooled, neighbour, atomic):
    pool = pooled(max_size=2)
    both(neighbour)
    add_extension(atomic=atomic)
    for _ in range(2):
        with transaction.atomic():
            assert read() == neighbour.does(read) == {"key": "value"}
        assert scalar("SELECT %s -> 'key'", {"key": "value"}) == "value"
        connection.close()
    assert used(pool) == 0
    assert psycopg.adapters.types.get("hstore") is None  # nowhere else


@pytest.mark.parametrize("atomic", [True, False], ids=["atomic", "not atomic"])
def test_the_operation_prepares_a_connection_and_never_none(hstore, pooled, monkeypatch, atomic):
    pooled(max_size=1)
    prepared: list[Any] = []

    def register(raw: Any, clear_caches: bool) -> None:
        prepared.append(raw)

    # PostGIS's wrapper has it, and asks the server through what it is given.
    wrapper = connection._connections[connection._alias]
    monkeypatch.setattr(wrapper, "register_geometry_adapters", register, raising=False)
    add_extension(atomic=atomic)
    assert [type(raw).__mro__[1] for raw in prepared] == [psycopg.Connection]
    connection.close()

"""The mixin in front of other people's wrappers: what they do to a connection still happens."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import psycopg
import pytest
from django.db import connection as default_connection
from django.db.backends.postgresql import base
from psycopg.types.string import StrDumper

from django_poolkit.backends.postgresql.base import PooledDatabaseWrapperMixin

pytestmark = [pytest.mark.core, pytest.mark.django_db(transaction=True)]


class Point(str):
    """A type that psycopg knows no adapter for unless the wrapper below registers it."""


class CountingCursor(psycopg.Cursor[Any]):
    """A cursor as instrumentation packages make them: wrapped around whatever is there."""

    executed: list[str]


class InstrumentedWrapper(base.DatabaseWrapper):
    """What PostGIS and django-prometheus do: adapters and a cursor class, at each connect."""

    executed: list[str]

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        connection = super().get_new_connection(conn_params)
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
def wrapper() -> Iterator[Any]:
    """A pooled wrapper around the instrumented one."""
    default: Any = default_connection
    wrapper: Any = PooledWrapper(deepcopy(default.settings_dict), "instrumented")
    wrapper.executed = []
    yield wrapper
    wrapper.close()
    wrapper.close_pool()


def test_a_wrapper_between_ours_and_djangos_sees_each_connection(wrapper: Any) -> None:
    for _ in range(3):
        with wrapper.cursor() as cursor:
            cursor.execute("SELECT %s::text", [Point("here")])
            assert cursor.fetchone() == ("here",)
        wrapper.close()
    assert len(wrapper.executed) == 3
    assert wrapper.pool.stats().connects == 1


def test_what_it_wraps_does_not_pile_up(wrapper: Any) -> None:
    depths = set()
    for _ in range(20):
        with wrapper.cursor() as cursor:
            cursor.execute("SELECT 1")
            depths.add(len(type(cursor.cursor).__mro__))
        wrapper.close()
    assert len(depths) == 1
    assert len(wrapper.executed) == 20


def test_its_cursors_are_bound_to_the_lease_all_the_same(wrapper: Any) -> None:
    cursor = wrapper.cursor()
    cursor.execute("SELECT 1")
    wrapper.close()
    with pytest.raises(psycopg.InterfaceError):
        cursor.cursor.execute("SELECT 1")


def test_a_wrapper_that_fails_after_the_acquire_loses_no_slot(
    wrapper: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> None:
        raise LookupError("the extension is not installed")

    monkeypatch.setattr("psycopg.adapt.AdaptersMap.register_dumper", fail)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(wrapper.settings_dict["OPTIONS"]["pool"]["max_size"] + 1):
            with pytest.raises(LookupError):
                wrapper.ensure_connection()
        monkeypatch.undo()
        with wrapper.cursor() as cursor:
            cursor.execute("SELECT 1")
    assert wrapper.pool.stats().used == 1
    assert "InstrumentedWrapper.get_new_connection" in str(caught[0].message)


class GuardedWrapper(PooledDatabaseWrapperMixin, base.DatabaseWrapper):
    """What stands in front of ours: asked before each cursor, as Django does it."""

    asked = 0

    def ensure_connection(self) -> None:
        self.asked += 1
        super().ensure_connection()


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_a_wrapper_in_front_is_asked_to_connect_before_each_cursor(mode: str) -> None:
    default: Any = default_connection
    wrapper: Any = GuardedWrapper(deepcopy(default.settings_dict), "guarded")
    wrapper.settings_dict["OPTIONS"]["pool"] = {"mode": mode}
    try:
        wrapper.connect()  # which Django follows by questions of its own
        wrapper.asked = 0
        for _ in range(3):
            with wrapper.cursor() as cursor:
                cursor.execute("SELECT 1")
        assert wrapper.asked == 3
        wrapper.ensure_connection = refuse
        with pytest.raises(LookupError):
            wrapper.cursor()
        assert wrapper.pool.stats().used == (mode == "session")
    finally:
        wrapper.close()
        wrapper.close_pool()


def refuse() -> None:
    raise LookupError("no connection for this test")

"""Who takes hold of the psycopg connection itself, keeps it to close(); Django's own do not."""

from __future__ import annotations

import threading
from types import ModuleType
from typing import Any

import psycopg
import pytest
from django.db import connections, transaction
from psycopg import IsolationLevel
from psycopg.rows import dict_row

from tests.app.models import Item
from tests.backends.transaction_mode.support import (
    Broken,
    backend,
    connection,
    create,
    pins,
    scalar,
    used,
)
from tests.scenarios.sessions import UNTOUCHED, facts

pytestmark = pytest.mark.core


def through_the_proxy() -> Any:
    return connection.connection


def through_all() -> Any:
    [wrapper] = [wrapper for wrapper in connections.all() if wrapper.alias == "default"]
    return wrapper.connection


def through_the_handler() -> Any:
    return connections["default"].connection


def through_a_cursor() -> Any:
    with connection.cursor() as cursor:
        return cursor.connection


def through_psycopgs_cursor() -> Any:
    with connection.cursor() as cursor:
        return cursor.cursor.connection


def in_a_thread_that_shares() -> Any:
    wrapper, seen = connections["default"], []
    wrapper.inc_thread_sharing()
    try:
        thread = threading.Thread(target=lambda: seen.append(wrapper.connection))
        thread.start()
        thread.join()
    finally:
        wrapper.dec_thread_sharing()
    return seen[0]


WAYS = [
    through_the_proxy, through_all, through_the_handler, through_a_cursor,
    through_psycopgs_cursor, in_a_thread_that_shares,
]  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_who_takes_the_connection_holds_it(pooled, neighbour, way):
    pool = pooled(max_size=2)
    mine = backend()
    raw = way()
    assert isinstance(raw, psycopg.Connection)
    assert raw.info.backend_pid == mine
    assert used(pool) == 1
    assert pins(pool) == {"raw": 1}
    assert neighbour.begins() != mine
    assert backend() == mine
    neighbour.rolls_back()


@pytest.mark.parametrize("way", WAYS)
def test_what_is_done_to_it_never_reaches_the_next_lease(pooled, way):
    pool = pooled(max_size=1)
    mine = backend()
    way().execute("SET statement_timeout = '77s'")
    assert scalar("SHOW statement_timeout") == "77s"
    connection.close()
    assert used(pool) == 0
    lease = pool.acquire()
    assert lease.connection.info.backend_pid == mine
    assert facts(lease.connection) == UNTOUCHED
    lease.release()


def test_there_is_none_where_nothing_is_open(pooled):
    pool = pooled(max_size=1)
    assert connection.connection is None
    create("one")
    connection.close()
    assert connection.connection is None
    assert used(pool) == 0
    assert pins(pool) == {}


def test_in_a_block_it_is_that_of_the_block(pooled, server):
    pool = pooled(max_size=2)
    create("connected")
    with pytest.raises(Broken), transaction.atomic():
        # Before any statement of the ORM.
        connection.connection.execute("INSERT INTO app_item (name, created) VALUES ('raw', now())")
        assert Item.objects.filter(name="raw").exists()
        raise Broken
    assert server.names == ["connected"]
    with transaction.atomic():
        create("kept")
        with connection.connection.cursor() as cursor:
            cursor.execute("INSERT INTO app_item (name, created) VALUES ('raw', now())")
    assert server.names == ["connected", "kept", "raw"]
    assert pins(pool) == {"raw": 1}


def test_what_is_set_on_the_driver_never_reaches_the_next_lease(pooled):
    pool = pooled(max_size=1)
    mine = backend()
    raw = connection.connection
    raw.isolation_level = IsolationLevel.SERIALIZABLE
    raw.read_only = True
    raw.deferrable = True
    raw.row_factory = dict_row
    raw.prepare_threshold = 1
    raw.add_notice_handler(lambda notice: None)
    raw.add_notify_handler(lambda notify: None)
    connection.close()
    assert backend() == mine
    create("writable")
    assert scalar("SHOW transaction_isolation") == "read committed"
    assert pool.stats().connects == 1
    lease = pool.acquire()
    now = lease.connection
    assert (now.isolation_level, now.read_only, now.deferrable) == (None, None, None)
    assert (now.prepare_threshold, now._notice_handlers, now._notify_handlers) == (None, [], [])
    lease.release()


@pytest.mark.parametrize("way", [through_the_proxy, through_a_cursor])
def test_it_is_refused_when_it_has_been_given_back(pooled, way):
    pooled(max_size=1)
    backend()
    raw = way()
    connection.close()
    with pytest.raises(psycopg.InterfaceError):
        raw.execute("SELECT 1")
    with pytest.raises(psycopg.InterfaceError):
        raw.cursor()


# -- who may look


LOOK = """
def look(connection):
    return connection.connection.info.backend_pid

def look_through_a_cursor(connection):
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        return cursor.connection.info.backend_pid
"""


def module(name: str) -> Any:
    """Return a module of somebody else's that looks at connections."""
    made = ModuleType(name)
    exec(LOOK, made.__dict__)
    return made


@pytest.mark.parametrize("name", ["audit", "audit.inner.deeply"])
@pytest.mark.parametrize("look", ["look", "look_through_a_cursor"])
def test_a_trusted_module_may_look(pooled, name, look):
    pool = pooled(max_size=1, trusted_modules=["audit"])
    backend()
    with transaction.atomic():
        mine = backend()
        assert getattr(module(name), look)(connection) == mine
    assert used(pool) == 0
    assert pins(pool) == {}


@pytest.mark.parametrize("name", ["auditor", "my.audit", "debug_toolbars", "django_project"])
def test_one_whose_name_resembles_it_may_not(pooled, name):
    pool = pooled(max_size=1, trusted_modules=["audit"])
    mine = backend()
    assert module(name).look(connection) == mine
    assert pins(pool) == {"raw": 1}


@pytest.mark.parametrize(
    "name",
    [
        "debug_toolbar.panels.sql.tracking", "sentry_sdk.integrations.django",
        "opentelemetry.instrumentation.psycopg", "django_prometheus.db.common",
        "ddtrace.contrib.django", "elasticapm.instrumentation", "newrelic.hooks",
    ],
)  # fmt: skip
def test_instrumentation_looks_and_holds_nothing(pooled, name):
    pool = pooled(max_size=1)
    look = module(name)
    with transaction.atomic():
        mine = backend()
        assert look.look(connection) == mine
    for _ in range(3):
        assert look.look_through_a_cursor(connection) == mine
        assert used(pool) == 0
    assert pins(pool) == {}


def test_what_a_trusted_module_has_under_way_is_not_given_away(pooled):
    pool = pooled(max_size=1, trusted_modules=["audit"])
    audit = module("audit")
    exec("def pipeline(cursor): return cursor.connection.pipeline()", audit.__dict__)
    with connection.cursor() as cursor:
        pipeline = audit.pipeline(cursor)
        pipeline.__enter__()
    assert used(pool) == 1
    create("in the pipeline")
    assert used(pool) == 1
    pipeline.__exit__(None, None, None)
    assert Item.objects.count() == 1
    assert used(pool) == 0
    assert pins(pool) == {}


def test_django_sees_none_while_nothing_is_leased(pooled):
    pool = pooled(max_size=1)
    create("open")
    seen = ModuleType("django.somewhere")
    exec("def look(connection): return connection.connection", seen.__dict__)
    assert seen.look(connection) is None
    assert used(pool) == 0
    with connection.cursor():
        assert seen.look(connection) is not None
    assert pins(pool) == {}

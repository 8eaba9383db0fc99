"""A lease lasts from Django's connect() to its close(), and comes home by every way out."""

from __future__ import annotations

import gc
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import psycopg_pool
import pytest
from django.core.signals import request_finished
from django.db import (
    DatabaseError,
    InterfaceError,
    OperationalError,
    ProgrammingError,
    transaction,
)
from django.db import connection as default_connection
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

from django_poolkit import LeaseReleased, PoolTimeout, PoolWarning
from django_poolkit.pools.postgres import ConnectionPool
from django_poolkit.testing.waiting import wait_until
from tests.app.models import Item

# Typed by django-stubs as any backend's.
connection: Any = default_connection

pytestmark = [pytest.mark.core, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def pool() -> Iterator[ConnectionPool]:
    """The pool behind the default alias, with nothing leased by this thread."""
    connection.close()
    pool = connection.pool
    assert isinstance(pool, ConnectionPool)
    pool.recycle()
    yield pool
    connection.close()
    assert pool.stats().used == 0


def scalar(sql: str) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        row = cursor.fetchone()
    return row[0]


def test_the_lease_ends_with_close(pool: ConnectionPool) -> None:
    Item.objects.create(name="one")
    assert pool.stats().used == 1
    connection.close()
    assert (pool.stats().used, pool.stats().idle) == (0, 1)
    assert connection.connection is None


def test_the_end_of_a_request_ends_the_lease(pool: ConnectionPool) -> None:
    Item.objects.count()
    assert pool.stats().used == 1
    request_finished.send(sender=None)
    assert pool.stats().used == 0


def test_the_hot_connection_serves_one_request_after_the_other(pool: ConnectionPool) -> None:
    pids = set()
    for _ in range(5):
        pids.add(scalar("SELECT pg_backend_pid()"))
        connection.close()
    assert len(pids) == 1


def test_what_the_orm_writes_needs_no_reset_and_what_people_write_does(
    pool: ConnectionPool,
) -> None:
    before = pool.stats().resets
    with transaction.atomic():
        item = Item.objects.create(name="orm")
        Item.objects.filter(pk=item.pk).update(name="still the ORM")
    list(Item.objects.iterator())
    connection.close()
    assert pool.stats().resets == before
    scalar("SELECT 1")
    connection.close()
    assert pool.stats().resets == before + 1


@pytest.mark.parametrize(
    ("leave", "ask", "clean"),
    [
        ("SET search_path TO pg_catalog", "SHOW search_path", '"$user", public'),
        ("SET statement_timeout TO '5s'", "SHOW statement_timeout", "0"),
        ("SET TIME ZONE 'Asia/Tokyo'", "SHOW TimeZone", "UTC"),
        ("SET ROLE pg_read_all_data", "SELECT current_user = session_user", True),
        ("CREATE TEMP TABLE t (a int)", "SELECT to_regclass('pg_temp.t') IS NULL", True),
        ("SELECT pg_advisory_lock(7)", "SELECT count(*) FROM pg_locks WHERE objid = 7", 0),
        ("LISTEN news", "SELECT count(*) FROM pg_listening_channels()", 0),
        ("PREPARE p AS SELECT 1", "SELECT count(*) FROM pg_cursors", 0),
    ],
)
def test_no_session_state_reaches_the_next_request(
    pool: ConnectionPool, leave: str, ask: str, clean: Any
) -> None:
    with connection.cursor() as cursor:
        cursor.execute(leave)
    pid = scalar("SELECT pg_backend_pid()")
    connection.close()
    assert scalar(ask) == clean
    assert scalar("SELECT pg_backend_pid()") == pid


def test_driver_attributes_do_not_reach_the_next_request(pool: ConnectionPool) -> None:
    connection.ensure_connection()
    raw: Any = connection.connection
    raw.read_only = True
    raw.isolation_level = 4
    connection.close()
    Item.objects.create(name="writable again")
    assert connection.connection is raw
    assert (raw.read_only, raw.isolation_level) == (None, None)


def test_a_transaction_left_open_is_rolled_back(pool: ConnectionPool) -> None:
    connection.set_autocommit(False)
    Item.objects.create(name="never committed")
    connection.close()
    assert not Item.objects.filter(name="never committed").exists()
    assert connection.get_autocommit()


def test_a_cursor_is_refused_after_close(pool: ConnectionPool) -> None:
    cursor = connection.cursor()
    cursor.execute("SELECT 1")
    connection.close()
    with pytest.raises(InterfaceError) as caught:
        cursor.execute("SELECT 2")
    assert isinstance(caught.value, LeaseReleased)
    with pytest.raises(LeaseReleased):
        cursor.fetchone()


def test_an_iterator_of_the_last_request_does_not_read_on(pool: ConnectionPool) -> None:
    Item.objects.bulk_create(Item(name=str(n)) for n in range(300))
    rows = Item.objects.iterator(chunk_size=10)
    next(rows)
    connection.close()
    with pytest.raises(InterfaceError):
        list(rows)


def test_connection_created_fires_at_each_connect_as_with_djangos_pool(
    pool: ConnectionPool,
) -> None:
    seen = []

    def receiver(connection: Any, **kwargs: Any) -> None:
        seen.append(connection.alias)

    connection_created.connect(receiver)
    try:
        for _ in range(3):
            Item.objects.count()
            connection.close()
    finally:
        connection_created.disconnect(receiver)
    assert seen == ["default"] * 3


def test_a_thread_that_ends_without_closing_gives_its_lease_back(pool: ConnectionPool) -> None:
    def work() -> None:
        with transaction.atomic():
            Item.objects.create(name="from a thread")

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(pool.max_size * 2):
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
        pool.acquire().release()
    assert Item.objects.filter(name="from a thread").count() == pool.max_size * 2
    leaks = [w for w in caught if issubclass(w.category, PoolWarning)]
    assert leaks
    assert "test_session_mode.py" in str(leaks[0].message)


def test_a_wrapper_that_is_collected_gives_its_lease_back(pool: ConnectionPool) -> None:
    copy = connection.copy()
    copy.ensure_connection()
    used = pool.stats().used
    del copy
    gc.collect()
    with pytest.warns(PoolWarning, match="dropped without being released"):
        pool.acquire().release()
    assert pool.stats().used == used - 1


def test_exhaustion_is_an_error_of_django_psycopg_pool_and_ours(pool: ConnectionPool) -> None:
    held = [pool.acquire() for _ in range(pool.max_size)]
    patience, pool.timeout = pool.timeout, 0.05
    try:
        with pytest.raises(OperationalError) as caught:
            Item.objects.count()
    finally:
        pool.timeout = patience
        for lease in held:
            lease.release()
    assert isinstance(caught.value, PoolTimeout)
    assert isinstance(caught.value, psycopg_pool.PoolTimeout)
    assert isinstance(caught.value, TimeoutError)
    assert caught.value.pool == "default"
    assert "used 8/8" in str(caught.value)
    Item.objects.count()


def test_close_pool_disturbs_nobody(pool: ConnectionPool) -> None:
    errors: list[BaseException] = []
    stop = threading.Event()

    def work() -> None:
        try:
            while not stop.is_set():
                Item.objects.count()
                connection.close()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        connection.close_pool()
    stop.set()
    for thread in threads:
        thread.join()
    assert errors == []
    connection.close_pool()


def test_a_lease_survives_close_pool_until_it_ends(pool: ConnectionPool) -> None:
    pid = scalar("SELECT pg_backend_pid()")
    connection.close_pool()
    assert scalar("SELECT pg_backend_pid()") == pid
    connection.close()
    assert scalar("SELECT pg_backend_pid()") != pid


def test_a_backend_killed_in_a_block_costs_that_block_only(pool: ConnectionPool) -> None:
    with pytest.raises(DatabaseError), transaction.atomic():
        Item.objects.create(name="lost")
        lease = pool.acquire()
        lease.connection.execute(
            "SELECT pg_terminate_backend(%s)", [connection.connection.info.backend_pid]
        )
        lease.release()
        Item.objects.count()
    connection.close()
    assert Item.objects.filter(name="lost").count() == 0


def test_closing_in_a_block_is_refused_as_with_django(pool: ConnectionPool) -> None:
    with pytest.raises(DatabaseError), transaction.atomic():
        Item.objects.create(name="lost")
        connection.close()
        Item.objects.count()
    assert not Item.objects.exists()


def test_is_usable_and_pg_version_leave_nothing_leased(pool: ConnectionPool) -> None:
    assert connection.pg_version >= 140000
    with connection.temporary_connection() as cursor:
        cursor.execute("SELECT 1")
    wait_until(lambda: pool.stats().used == 0)


def test_what_stands_in_the_place_of_djangos_ensure_connection_may_call_the_wrappers(
    pool: ConnectionPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, opened = connection.ensure_connection, []

    def instead(*_: object) -> None:
        opened.append(connection.connection is None)
        real()
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")

    monkeypatch.setattr(BaseDatabaseWrapper, "ensure_connection", instead)
    connection.ensure_connection()
    assert (opened, pool.stats().used) == ([True], 1)
    connection.close()
    with pytest.raises(ProgrammingError, match="in an atomic block"), transaction.atomic():
        connection.close()
        connection.ensure_connection()

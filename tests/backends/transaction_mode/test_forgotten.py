"""Threads, wrappers, children and servers that end: their leases come home clean."""

from __future__ import annotations

import gc
import threading
import warnings
from typing import Any

import pytest
from django.core.signals import request_finished
from django.db import OperationalError, connections, transaction

from django_poolkit import PoolWarning
from tests.backends.transaction_mode.support import (
    backend,
    connection,
    create,
    pins,
    scalar,
    used,
)
from tests.scenarios.crowd import in_a_fork
from tests.scenarios.sessions import UNTOUCHED, facts

pytestmark = pytest.mark.core


# -- threads and wrappers that end


def test_a_thread_that_ends_with_nothing_leased_leaves_nothing(pooled):
    pool = pooled(max_size=1)
    for n in range(3):
        thread = threading.Thread(target=create, args=[f"{n}"])
        thread.start()
        thread.join()
    gc.collect()
    assert used(pool) == 0
    assert pool.stats().leaks == 0


def set_and_begin() -> None:
    scalar("SET search_path TO public, pg_catalog")
    transaction.set_autocommit(False)
    create("never committed")


def set_and_keep() -> None:
    scalar("SET search_path TO public, pg_catalog")


def begin() -> None:
    transaction.atomic().__enter__()
    create("never committed")


@pytest.mark.parametrize("forgetful", [set_and_begin, set_and_keep, begin])
def test_a_thread_that_ends_with_a_lease_leaves_a_clean_connection(pooled, server, forgetful):
    pool = pooled(max_size=1)
    mine = backend()
    thread = threading.Thread(target=forgetful)
    thread.start()
    thread.join()
    with pytest.warns(PoolWarning, match="dropped without being released") as warned:
        lease = pool.acquire()
    assert forgetful.__name__ in str(warned[0].message)
    assert lease.connection.info.backend_pid == mine
    assert facts(lease.connection) == UNTOUCHED
    lease.release()
    assert server.names == []
    assert (used(pool), pool.stats().leaks) == (0, 1)
    create("the next")


def test_a_wrapper_that_is_dropped_while_pinned_gives_its_lease_back(pooled):
    pool = pooled(max_size=1)
    copy = connection.copy()
    scalar("SET search_path TO pg_catalog", using=copy)
    assert used(pool) == 1
    del copy
    gc.collect()
    with pytest.warns(PoolWarning, match="dropped without being released"):
        lease = pool.acquire()
    assert facts(lease.connection) == UNTOUCHED
    lease.release()


def test_a_wrapper_that_is_dropped_with_nothing_leased_is_no_leak(pooled):
    pool = pooled(max_size=1)
    copy = connection.copy()
    scalar("SELECT 1", using=copy)
    del copy
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gc.collect()
        pool.acquire().release()
    assert (used(pool), pool.stats().leaks) == (0, 0)


def test_a_cursor_that_outlives_its_wrapper_ends_well(pooled):
    pool = pooled(max_size=1)
    copy = connection.copy()
    cursor: Any = copy.cursor().cursor
    del copy
    gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PoolWarning)
        cursor.close()
        del cursor
        gc.collect()
        lease = pool.acquire()
    lease.release()
    assert used(pool) == 0


# -- forks


def test_a_child_has_its_own_connections(pooled, server):
    pool = pooled(max_size=2)
    create("parent")
    mine = backend()

    def child() -> None:
        assert backend() != mine
        with transaction.atomic():
            create("child")
        connections.close_all()

    assert [in_a_fork(child)() for _ in range(2)] == [0, 0]
    assert backend() == mine
    assert server.names == ["child", "child", "parent"]
    assert used(pool) == 0


def test_a_child_of_a_pinned_parent_is_not_pinned(pooled, server):
    pool = pooled(max_size=2)
    scalar("SELECT pg_advisory_lock(4711)")
    mine = backend()

    def child() -> None:
        assert scalar("SELECT pg_try_advisory_lock(4711)") is False
        assert backend() != mine
        connections.close_all()

    assert in_a_fork(child)() == 0
    assert backend() == mine
    assert server.locks == {4711: mine}
    assert pins(pool) == {"advisory_lock": 1}
    connection.close()
    assert server.locks == {}


def test_a_child_of_a_block_cannot_write_in_it(pooled, server):
    pooled(max_size=2)

    def child() -> None:
        try:
            create("by the child")
        except Exception:
            return
        raise AssertionError("written in the parent's transaction")

    with transaction.atomic():
        create("by the parent")
        assert in_a_fork(child)() == 0
    assert server.names == ["by the parent"]


# -- a server that goes


def test_a_pinned_backend_that_dies_is_replaced_in_the_next_request(pooled, primary):
    pool = pooled(max_size=1)
    scalar("SET search_path TO pg_catalog")
    primary.kill_backend(backend())
    with pytest.raises(OperationalError):
        scalar("SELECT 1")
    request_finished.send(sender=None)
    assert used(pool) == 0
    assert scalar("SHOW search_path") == '"$user", public'
    assert pool.stats().size == 1

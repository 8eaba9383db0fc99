"""What runs after a commit has no lease, and autocommit that is off by hand has one."""

from __future__ import annotations

import threading

import pytest
from django.db import (
    DatabaseError,
    connections,
    transaction,
)

from tests.app.models import Item
from tests.backends.transaction_mode.support import (
    Broken,
    backend,
    connection,
    create,
    used,
)

pytestmark = pytest.mark.core


# -- hooks


def test_hooks_run_when_the_connection_has_been_given_back(pooled, server, neighbour):
    pool = pooled(max_size=1)
    seen = []

    def hook() -> None:
        # The neighbour has the only connection while the hook is under way.
        seen.append((used(pool), server.names, neighbour.does(backend)))

    with transaction.atomic():
        create("one")
        mine = backend()
        with transaction.atomic():
            transaction.on_commit(hook)
        assert seen == []
    assert seen == [(0, ["one"], mine)]


def test_hooks_may_query_begin_blocks_and_register_hooks(pooled, server):
    pool = pooled(max_size=1)
    seen = []

    def first() -> None:
        create("by the first")
        with transaction.atomic():
            create("in its block")
            transaction.on_commit(lambda: seen.append("nested"))
        seen.append("first")

    with transaction.atomic():
        transaction.on_commit(first)
        transaction.on_commit(lambda: seen.append("second"))
        create("one")
    assert sorted(seen) == ["first", "nested", "second"]
    assert server.names == ["by the first", "in its block", "one"]
    assert used(pool) == 0


def test_hooks_run_after_a_block_without_a_statement(pooled):
    pooled(max_size=1)
    seen: list[str] = []
    with transaction.atomic():
        transaction.on_commit(lambda: seen.append("ran"))
    assert seen == ["ran"]
    with pytest.raises(Broken), transaction.atomic():
        transaction.on_commit(lambda: seen.append("not this one"))
        raise Broken
    assert seen == ["ran"]


def test_a_robust_hook_that_fails_does_not_stop_the_others(pooled, caplog):
    pool = pooled(max_size=1)
    seen = []

    def fail() -> None:
        raise DatabaseError("robust")

    with transaction.atomic():
        create("one")
        transaction.on_commit(fail, robust=True)
        transaction.on_commit(lambda: seen.append(used(pool)))
    assert seen == [0]
    assert "robust" in caplog.text


# -- autocommit off by hand


def test_autocommit_off_holds_from_the_first_statement(pooled, neighbour):
    pool = pooled(max_size=1)
    create("connected")
    transaction.set_autocommit(False)
    assert used(pool) == 0
    neighbour.does(create, "meanwhile")
    assert Item.objects.count() == 2
    assert used(pool) == 1
    transaction.rollback()
    transaction.set_autocommit(True)
    assert used(pool) == 0


def test_autocommit_on_again_ends_the_transaction_as_with_django(pooled, server):
    pool = pooled(max_size=1)
    transaction.set_autocommit(False)
    create("one")
    with transaction.atomic():
        create("two")
    assert server.names == []
    transaction.commit()
    assert server.names == ["one", "two"]
    transaction.set_autocommit(True)
    assert used(pool) == 0


def test_threads_that_share_a_wrapper_share_its_block(pooled, server):
    pool = pooled(max_size=2)
    connection.inc_thread_sharing()
    try:
        with transaction.atomic():
            create("here")
            mine = backend()
            seen: list[tuple[int, int]] = []

            def elsewhere() -> None:
                with shared.cursor() as cursor:
                    cursor.execute("SELECT pg_backend_pid(), count(*) FROM app_item")
                    seen.append(cursor.fetchone())

            shared = connections["default"]
            thread = threading.Thread(target=elsewhere)
            thread.start()
            thread.join()
            assert seen == [(mine, 1)]
            assert backend() == mine
    finally:
        connection.dec_thread_sharing()
    assert server.names == ["here"]
    assert used(pool) == 0

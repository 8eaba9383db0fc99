"""What goes over the wire: leases of a statement each cost no message more than long ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.db import transaction

from tests.app.models import Item
from tests.backends.transaction_mode.support import (
    backend,
    connection,
    create,
    fill,
    scalar,
    used,
)

pytestmark = pytest.mark.core


@pytest.fixture(params=["session", "transaction"])
def asked(request, pooled, proxy) -> Callable[[Callable[[], Any]], int]:
    """Return a function that does something, and returns how many round trips that took."""
    place = {"HOST": proxy.host, "PORT": str(proxy.port)}
    # With the window at its longest no lease is probed by a round trip.
    pooled(mode=request.param, max_size=1, bypass=60.0, entry=place)
    create("connected")

    def asked(act: Callable[[], Any]) -> int:
        before = proxy.round_trips
        act()
        return int(proxy.round_trips - before)

    return asked


def block(statements: int, *, fail: bool = False) -> None:
    with transaction.atomic():
        for _ in range(statements):
            Item.objects.count()
        transaction.set_rollback(fail)


def hooked() -> None:
    with transaction.atomic():
        Item.objects.count()
        transaction.on_commit(lambda: None)


def nested() -> None:
    with transaction.atomic():
        block(1)


def by_hand() -> None:
    transaction.set_autocommit(False)
    Item.objects.count()
    transaction.commit()
    transaction.set_autocommit(True)


def pinned() -> None:
    with connection.pinned():
        for _ in range(3):
            Item.objects.count()


# BEGIN, COMMIT, ROLLBACK, SAVEPOINT and its RELEASE are messages of their own.
@pytest.mark.parametrize(
    ("act", "round_trips"),
    [
        (lambda: Item.objects.count(), 1),
        (lambda: create("one"), 1),
        (lambda: [Item.objects.count() for _ in range(10)], 10),
        (lambda: block(0), 0),
        (lambda: block(0, fail=True), 0),
        (lambda: block(1), 3),
        (lambda: block(3), 5),
        (lambda: block(2, fail=True), 4),
        (hooked, 3),
        (nested, 5),
        (by_hand, 3),
        (lambda: connection.get_autocommit(), 0),
        (lambda: transaction.on_commit(lambda: None), 0),
        (lambda: connection.ensure_connection(), 0),
        (lambda: connection.is_usable(), 1),
        (lambda: connection.close(), 0),
        (lambda: [connection.close(), Item.objects.count()], 1),
        (lambda: connection.cursor().close(), 0),
    ],
    ids=[
        "count", "create", "ten", "empty block", "empty block undone", "block", "block of three",
        "block undone", "hook", "nested", "by hand", "get_autocommit", "on_commit",
        "ensure_connection", "is_usable", "close", "next request", "cursor",
    ],
)  # fmt: skip
def test_round_trips(asked, act, round_trips):
    assert asked(act) == round_trips


def test_a_pinned_block_costs_a_reset_at_its_end(asked):
    reset = connection.pool.config.mode == "transaction"
    assert asked(pinned) == 3 + reset


def test_pg_version_is_asked_once(asked):
    assert asked(lambda: connection.pg_version) <= 1
    assert asked(lambda: connection.pg_version) == 0


def test_an_iterator_declares_fetches_and_closes(asked):
    fill(4)
    # DECLARE and a look at it, FETCH three times, a look whether it is there still, CLOSE.
    assert asked(lambda: list(Item.objects.iterator(chunk_size=2))) == 7


def test_a_reset_is_one_round_trip_at_the_end_of_the_request(asked):
    assert asked(lambda: scalar("SET search_path TO public, pg_catalog")) == 1
    assert asked(lambda: [backend() for _ in range(3)]) == 3
    assert asked(connection.close) == 1
    assert asked(connection.close) == 0


def test_a_statement_after_the_end_of_its_lease_sends_nothing(asked):
    cursor = connection.cursor()
    cursor.execute("SELECT 1")
    connection.close()

    def use() -> None:
        with pytest.raises(Exception, match="released"):
            cursor.execute("SELECT 2")

    assert asked(use) == 0
    assert used(connection.pool) == 0

"""currval() and lastval(): what a session drew itself, or an error, but never another's number."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import OperationalError, transaction

from django_poolkit.pools.postgres import ConnectionPool
from django_poolkit.testing import Node
from tests.backends.transaction_mode.support import connection, pins, scalar

pytestmark = [pytest.mark.core, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def drawn(pooled: Callable[..., ConnectionPool]) -> Iterator[ConnectionPool]:
    """A pool of one connection, on which somebody else has drawn 1."""
    pool = pooled(max_size=1)
    scalar("SELECT 1 FROM (SELECT 1) AS one")
    with connection.cursor() as cursor:
        cursor.execute("CREATE SEQUENCE tickets")
    assert scalar("SELECT nextval('tickets')") == 1
    assert pool.stats().used == 0
    yield pool
    with connection.cursor() as cursor:
        cursor.execute("DROP SEQUENCE tickets")


@pytest.mark.parametrize("question", ["SELECT currval('tickets')", "SELECT LASTVAL()"])
def test_another_ones_number_is_refused(drawn: ConnectionPool, question: str) -> None:
    for _ in range(2):
        with pytest.raises(OperationalError, match="RETURNING"):
            scalar(question)
        assert drawn.stats().used == 0
    assert pins(drawn) == {}


def test_it_is_refused_as_the_first_statement_of_a_block(drawn: ConnectionPool) -> None:
    with pytest.raises(OperationalError, match="drawn nothing"), transaction.atomic():
        scalar("SELECT currval('tickets')")
    assert drawn.stats().used == 0


# Bound late: a method bound at import is that of the wrapper of then.
@pytest.mark.parametrize("holder", [transaction.atomic, lambda: connection.pinned()])
def test_ones_own_number_can_be_asked_for(drawn: ConnectionPool, holder: Any) -> None:
    with holder():
        number = scalar("SELECT nextval('tickets')")
        assert scalar("SELECT currval('tickets')") == number == 2


def test_one_statement_may_do_both(drawn: ConnectionPool) -> None:
    assert scalar("SELECT nextval('tickets') + 0 * currval('tickets')") == 2


def test_a_pinned_lease_goes_on(drawn: ConnectionPool) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET application_name TO 'tickets'")
    assert scalar("SELECT nextval('tickets')") == 2
    assert scalar("SELECT currval('tickets')") == 2
    connection.close()


def test_session_mode_says_what_postgresql_says(
    pooled: Callable[..., ConnectionPool], primary: Node
) -> None:
    pooled(mode="session")
    with pytest.raises(OperationalError, match="not yet defined in this session"):
        scalar("SELECT lastval()")

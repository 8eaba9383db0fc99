"""`retry_reads`: a read whose connection breaks is made once more, and a write never is.

The witness is the wire and the server: how often a statement was sent, was passed on, and has run.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from django.db import OperationalError, connection, transaction
from django.test.utils import CaptureQueriesContext

from django_poolkit.pools.postgres.connection import KILLED
from django_poolkit.testing.faults import Snare
from tests.app.models import Item

pytestmark = pytest.mark.core

MODES = pytest.mark.parametrize("mode", ["session", "transaction"])
PLACES = pytest.mark.parametrize("where", ["before", "after"])
READ = "SELECT run FROM witness"


def scalar(text: str, *params: Any) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(text, params or None)
        return cursor.fetchone()[0]


def warm() -> None:
    """Have a connection that has been used, and is idle or held by now."""
    assert scalar("SELECT 1") == 1


@MODES
def test_a_read_that_did_not_reach_the_server_is_made_again_and_runs_once(
    pooled, proxy, ledger, mode
):
    pool = pooled(mode=mode, retry_reads=True)
    warm()
    snare = proxy.snare = Snare(READ, "before")
    assert scalar(READ) == 1
    assert (snare.sent, snare.forwarded, ledger.runs) == (2, 1, 1)
    assert dict(pool.stats().retries) == {"statement": 1}
    assert dict(pool.stats().read_retries) == {}


@MODES
def test_a_read_whose_answer_was_lost_is_made_again(pooled, proxy, ledger, mode):
    pool = pooled(mode=mode, retry_reads=True)
    warm()
    snare = proxy.snare = Snare(READ, "after")
    assert scalar(READ) == 2
    assert (snare.sent, snare.forwarded, ledger.runs) == (2, 2, 2)
    assert dict(pool.stats().retries) == {"statement": 1}


@MODES
def test_a_server_process_that_is_ended_costs_a_read_of_the_orm_nothing(pooled, ledger, mode):
    pooled(mode=mode, retry_reads=True)
    Item.objects.create(name="one")
    pid = scalar("SELECT pg_backend_pid()")
    ledger.scalar(f"SELECT pg_terminate_backend({pid}, 5000)")
    with CaptureQueriesContext(connection) as queries:
        assert [item.name for item in Item.objects.all()] == ["one"]
    assert len(queries) == 1
    assert scalar("SELECT pg_backend_pid()") != pid


def test_it_has_to_be_asked_for(pooled, proxy, ledger):
    pool = pooled(mode="transaction")
    warm()
    snare = proxy.snare = Snare(READ, "before")
    with pytest.raises(OperationalError):
        scalar(READ)
    assert (snare.sent, ledger.runs, dict(pool.stats().retries)) == (1, 0, {})


@MODES
def test_what_breaks_two_connections_is_not_made_a_third_time(pooled, proxy, ledger, mode):
    pooled(mode=mode, retry_reads=True)
    warm()
    snare = proxy.snare = Snare(READ, "before", times=9)
    with pytest.raises(OperationalError):
        scalar(READ)
    assert (snare.sent, ledger.runs) == (2, 0)
    proxy.snare = None
    connection.close()
    warm()


WRITES = [
    "INSERT INTO app_item (name, created) VALUES ('w', now())",
    "WITH w AS (INSERT INTO app_item (name, created) VALUES ('w', now()) RETURNING 1) TABLE w",
    "UPDATE app_item SET name = 'x'",
    "SELECT nextval('runs')",
    "SELECT pg_notify('a', 'b')",
    "SELECT shaky()",
    "SELECT listed()",
    "SELECT id FROM app_item FOR UPDATE",
    "SELECT pg_advisory_lock(7)",
    "SELECT 1; INSERT INTO app_item (name, created) VALUES ('w', now())",
    "CALL nothing()",
    "DO $$ BEGIN END $$",
]


@MODES
@PLACES
def test_what_may_write_is_sent_once(pooled, proxy, ledger, mode, where):
    pool = pooled(mode=mode, retry_reads=True, harmless_functions=["listed"])
    for text in WRITES:
        before = ledger.rows
        warm()
        snare = proxy.snare = Snare(text, where)
        with pytest.raises(OperationalError), connection.cursor() as cursor:
            cursor.execute(text)
        assert snare.sent == 1, text
        assert ledger.rows - before == (1 if "INSERT" in text and where == "after" else 0)
        connection.close()
    assert dict(pool.stats().retries) == {}


@MODES
@PLACES
def test_a_write_of_the_orm_is_made_once(pooled, proxy, ledger, mode, where):
    pooled(mode=mode, retry_reads=True)
    warm()
    snare = proxy.snare = Snare("INSERT INTO", where)
    with pytest.raises(OperationalError):
        Item.objects.create(name="one")
    assert (snare.sent, ledger.rows) == (1, int(where == "after"))
    connection.close()


@MODES
def test_what_is_in_a_transaction_is_not_made_again(pooled, proxy, ledger, mode):
    pooled(mode=mode, retry_reads=True)
    warm()
    snare = proxy.snare = Snare(READ, "before")
    with pytest.raises(OperationalError), transaction.atomic():
        scalar(READ)
    assert (snare.sent, ledger.runs) == (1, 0)


@MODES
@pytest.mark.parametrize("state", ["SET", "pinned"])
def test_what_would_miss_its_session_state_is_not_made_again(pooled, proxy, ledger, mode, state):
    pooled(mode=mode, retry_reads=True)
    warm()
    wrapper: Any = connection
    with wrapper.pinned():
        if state == "SET":
            scalar("SELECT set_config('app.tenant', '7', false)")
        snare = proxy.snare = Snare(READ, "before")
        with pytest.raises(OperationalError):
            scalar(READ)
    assert (snare.sent, ledger.runs) == (1, 0)
    connection.close()


def test_rows_that_come_by_and_by_are_not_read_again(pooled, proxy):
    pooled(mode="session", retry_reads=True)
    Item.objects.bulk_create([Item(name=f"{number}") for number in range(10)])
    with pytest.raises(OperationalError), transaction.atomic():
        rows = Item.objects.all().iterator(chunk_size=2)
        next(rows)
        proxy.drop()
        list(rows)
    connection.close()


def test_a_lease_that_somebody_has_killed_stays_dead(pooled, proxy, ledger):
    pooled(mode="session", retry_reads=True)
    warm()
    wrapper: Any = connection
    wrapper._raw._generation = KILLED  # as `poolctl kill` does before it cuts the line
    snare = proxy.snare = Snare(READ, "before")
    with pytest.raises(OperationalError):
        scalar(READ)
    assert (snare.sent, ledger.runs) == (1, 0)
    connection.close()


@MODES
def test_by_chance_no_write_is_ever_sent_twice(pooled, proxy, ledger, mode):
    pool = pooled(mode=mode, retry_reads=True)
    chance, told = random.Random(mode), Counter[str]()
    for number in range(80):
        writes = chance.random() < 0.5
        name = f"n{number:03}n"
        proxy.snare = snare = Snare(
            f"'{name}'", chance.choice(("before", "after")), chance.choice((0, 1))
        )
        cut = snare.left
        try:
            if writes:
                Item.objects.create(name=name)
            else:
                Item.objects.filter(name=name).count()
            ended = "done"
        except OperationalError:
            ended = "lost"
            connection.close()
        kind = "write" if writes else "read"
        told[f"{kind} {ended}"] += 1
        assert ended == ("lost" if cut and writes else "done")
        rows = ledger.scalar(f"SELECT count(*) FROM app_item WHERE name = '{name}'")
        if writes:
            assert snare.sent == 1
            assert rows == (0 if cut and snare.where == "before" else 1)
        else:
            assert snare.sent == 1 + cut
    assert min(told.values()) > 5, told
    assert pool.stats().retries["statement"] > 10

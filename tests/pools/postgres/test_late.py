"""A deadline on real connections: each kind of statement ends, and harms nobody after it."""

from __future__ import annotations

import pickle
import random
import threading
import time
from collections import Counter
from typing import Any

import psycopg
import pytest

from django_poolkit import DeadlineExceeded, PoolTimeout, deadline
from django_poolkit.pools.postgres import late
from django_poolkit.pools.postgres.connection import PoolConnection
from tests.pools.support import Call

SHORT = 0.2
# What the product promises at the latest, three times.
LATEST = 3 * (SHORT + late.GRACE)


def rows(seconds: float = 0.02, count: int = 500) -> str:
    return f"SELECT pg_sleep({seconds}) FROM generate_series(1, {count})"


def execute(connection: Any) -> None:
    connection.execute("SELECT pg_sleep(30)")


def executemany(connection: Any) -> None:
    connection.cursor().executemany("SELECT pg_sleep(%s)", [(0.05,)] * 200)


def stream(connection: Any) -> None:
    for _ in connection.cursor().stream(rows()):
        pass


def copy_out(connection: Any) -> None:
    with connection.cursor().copy(f"COPY ({rows()}) TO STDOUT") as copy:
        for _ in copy:
            pass


def copy_in(connection: Any) -> None:
    connection.execute("CREATE TEMP TABLE IF NOT EXISTS copied (line text)")
    with connection.cursor().copy("COPY copied FROM STDIN") as copy:
        while True:
            copy.write("line\n")


def server_cursor(connection: Any) -> None:
    with connection.transaction(), connection.cursor("named") as cursor:
        cursor.itersize = 1
        for _ in cursor.execute(rows()):
            pass


def transaction(connection: Any) -> None:
    with connection.transaction():
        connection.execute("SELECT pg_sleep(30)")


def pipeline(connection: Any) -> None:
    with connection.pipeline():
        connection.execute("SELECT 1")
        connection.execute("SELECT pg_sleep(30)").fetchone()


def notifies(connection: Any) -> None:
    connection.execute("LISTEN nobody")
    for _ in connection.notifies():
        pass


KINDS = [
    execute, executemany, stream, copy_out, copy_in, server_cursor, transaction, pipeline, notifies,
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_statement_ends_with_its_deadline(make_pool, kind):
    pool = make_pool(max_size=1)
    with pool.acquire() as connection:
        connection.autocommit = True
        connection.execute("SELECT 1")
        started = time.monotonic()
        with pytest.raises(DeadlineExceeded) as caught, deadline(SHORT):
            kind(connection)
        assert SHORT <= time.monotonic() - started < LATEST
        assert caught.value.deadline == SHORT
        if not connection.closed:
            assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
            assert connection.execute("SELECT 5").fetchone() == (5,)
    with pool.acquire() as connection:
        assert connection.execute("SELECT 6").fetchone() == (6,)
    assert pool.stats().used == 0


def test_the_error_says_what_it_was(make_pool):
    pool = make_pool(name="orders")
    with pool.acquire() as connection, pytest.raises(DeadlineExceeded) as caught, deadline(SHORT):
        connection.execute("/* secret */ SELECT pg_sleep(30), 'secret'")
    error = caught.value
    assert str(error) == (
        "pool 'orders': the deadline of 0.20 s passed while a statement (SELECT) ran; it was "
        "cancelled"
    )
    assert isinstance(error, TimeoutError)
    assert isinstance(error, psycopg.OperationalError)
    assert (error.pool, error.deadline, error.waited_for, error.sqlstate) == (
        "orders", SHORT, "a statement (SELECT)", "57014",
    )  # fmt: skip
    twin = pickle.loads(pickle.dumps(error))
    assert (str(twin), twin.__dict__) == (str(error), error.__dict__)


def test_nothing_begins_after_the_deadline(make_pool):
    pool = make_pool()
    with pool.acquire() as connection:
        connection.execute("CREATE TEMP TABLE written (number int)")
        connection.commit()
        with deadline(SHORT) as here:
            connection.execute("INSERT INTO written VALUES (1)")
            while here.left():
                time.sleep(0.01)
            with pytest.raises(DeadlineExceeded, match=r"before a statement \(INSERT\) began"):
                connection.execute("INSERT INTO written VALUES (2)")
            with pytest.raises(DeadlineExceeded, match=r"before a statement \(COMMIT\) began"):
                connection.commit()
            connection.rollback()
        assert connection.execute("SELECT count(*) FROM written").fetchone() == (0,)
        connection.rollback()


def test_a_block_of_psycopgs_commits_nothing_after_the_deadline(make_pool):
    pool = make_pool()
    with pool.acquire() as connection:
        connection.autocommit = True
        connection.execute("CREATE TEMP TABLE written (number int)")
        with pytest.raises(DeadlineExceeded), deadline(SHORT) as here, connection.transaction():
            connection.execute("INSERT INTO written VALUES (1)")
            while here.left():
                time.sleep(0.01)
    assert pool.stats().closed["unfinished"] == 1


def test_a_savepoint_can_be_rolled_back_to_after_the_deadline(make_pool):
    pool = make_pool()
    with pool.acquire() as connection:
        connection.execute("SAVEPOINT here")
        with deadline(SHORT):
            with pytest.raises(DeadlineExceeded):
                connection.execute("SELECT pg_sleep(30)")
            connection.execute("ROLLBACK TO SAVEPOINT here")
        assert connection.execute("SELECT 1").fetchone() == (1,)
        connection.rollback()


def test_a_statement_timeout_of_the_server_stays_what_it_is(make_pool):
    pool = make_pool(statement_timeout="50ms")
    with pool.acquire() as connection, deadline(60.0):
        with pytest.raises(psycopg.errors.QueryCanceled) as caught:
            connection.execute("SELECT pg_sleep(30)")
        assert not isinstance(caught.value, DeadlineExceeded)


def test_an_acquire_waits_for_what_is_left(make_pool):
    pool = make_pool(max_size=1, name="orders")
    with pool.acquire():
        started = time.monotonic()
        with pytest.raises(PoolTimeout) as caught, deadline(SHORT):
            pool.acquire()
        assert SHORT <= time.monotonic() - started < LATEST
        error = caught.value
        assert error.deadline == SHORT
        assert "no connection within 0.20 s, which its deadline of 0.20 s had left" in str(error)
        with pytest.raises(PoolTimeout) as caught, deadline(60.0):
            pool.acquire(timeout=0.05)
        assert caught.value.deadline is None
        assert "deadline" not in str(caught.value)


def test_a_release_does_its_work_after_the_deadline(make_pool, app):
    pool = make_pool(max_size=1, reset="always", kwargs={"application_name": app})
    with deadline(SHORT) as here:
        lease = pool.acquire()
        lease.connection.execute("SET application_name = 'left behind'")
        backend = lease.connection.info.backend_pid
        while here.left():
            time.sleep(0.01)
        lease.release()
    with pool.acquire() as connection:
        assert connection.execute("SHOW application_name").fetchone() == (app,)
        assert connection.info.backend_pid == backend


def test_a_network_that_says_nothing_costs_the_connection(make_pool, proxy):
    pool = make_pool(max_size=1, kwargs={"host": proxy.host, "port": proxy.port})
    with pool.acquire() as connection:
        connection.execute("SELECT 1")
        proxy.stall()
        started = time.monotonic()
        with pytest.raises(DeadlineExceeded, match="the connection was closed"), deadline(SHORT):
            connection.execute("SELECT 2")
        assert time.monotonic() - started < LATEST
        assert connection.closed
        proxy.resume()
    with pool.acquire(timeout=10.0) as connection:
        assert connection.execute("SELECT 3").fetchone() == (3,)


def test_a_statement_that_ends_at_the_same_moment_keeps_its_result(make_pool, monkeypatch):
    pool = make_pool(max_size=1)

    def cancel(connection: PoolConnection) -> bool:
        time.sleep(3 * SHORT)  # meanwhile the statement ends
        return True

    monkeypatch.setattr(late, "cancel", cancel)
    with pool.acquire() as connection, deadline(SHORT):
        found = connection.execute("SELECT pg_sleep(%s), 7", [2 * SHORT]).fetchone()
        assert found[1] == 7
        backend = connection.info.backend_pid
    # A cancellation may be on its way to it.
    with pool.acquire() as connection:
        assert connection.info.backend_pid != backend
    assert pool.stats().closed["cancelled"] == 1


def test_a_request_that_overtakes_its_statement_is_repeated(make_pool, monkeypatch):
    pool = make_pool(max_size=1)
    cancel, asked = late.cancel, []

    def first_is_lost(connection: PoolConnection) -> bool:
        asked.append(connection)
        return len(asked) == 1 or cancel(connection)

    monkeypatch.setattr(late, "cancel", first_is_lost)
    with pool.acquire() as connection:
        with pytest.raises(DeadlineExceeded, match="it was cancelled"), deadline(SHORT):
            connection.execute("SELECT pg_sleep(30)")
        connection.rollback()
        backend = connection.info.backend_pid
    assert len(asked) >= 2
    with pool.acquire() as connection:
        assert connection.info.backend_pid == backend


def test_a_server_that_did_not_hear_once_may_yet_cancel_what_comes_next(make_pool, monkeypatch):
    """The first request has had no answer, and may still be on its way: nobody gets that."""
    pool = make_pool(max_size=1)
    cancel, asked = late.cancel, []

    def first_hangs(connection: PoolConnection) -> bool:
        asked.append(connection)
        return len(asked) > 1 and cancel(connection)

    monkeypatch.setattr(late, "cancel", first_hangs)
    with pool.acquire() as connection:
        with pytest.raises(DeadlineExceeded, match="it was cancelled"), deadline(SHORT):
            connection.execute("SELECT pg_sleep(30)")
        connection.rollback()
    assert len(asked) >= 2
    assert pool.stats().closed["cancelled"] == 1


def test_an_old_libpq_cancels_too(make_pool, monkeypatch):
    monkeypatch.setattr(psycopg.capabilities, "has_cancel_safe", lambda: False)
    pool = make_pool(max_size=1)
    with pool.acquire() as connection:
        with pytest.raises(DeadlineExceeded, match="it was cancelled"), deadline(SHORT):
            connection.execute("SELECT pg_sleep(30)")
        connection.rollback()
        backend = connection.info.backend_pid
    with pool.acquire() as connection:
        assert connection.info.backend_pid == backend


@pytest.mark.parametrize(
    "times", [100, pytest.param(2_500, marks=pytest.mark.slow)], ids=["a few", "thousands"]
)
def test_a_cancellation_never_hits_what_comes_next(make_pool, times):
    pool = make_pool(max_size=2, stacks="none")
    outcomes: Counter[str] = Counter()
    lock = threading.Lock()

    def work(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(times):
            with pool.acquire() as connection:
                connection.autocommit = True
                try:
                    with deadline(0.004):
                        connection.execute(f"SELECT pg_sleep({chance.uniform(0.002, 0.0045):.5f})")
                        outcome = "ended"
                except (DeadlineExceeded, PoolTimeout):
                    outcome = "late"
                # Neither the next statement of the lease, nor one of the next lease.
                connection.execute("SELECT pg_sleep(0.001)")
            with lock:
                outcomes[outcome] += 1

    for call in [Call(work, seed) for seed in range(4)]:
        call.result(timeout=300.0)
    assert outcomes["ended"] + outcomes["late"] == 4 * times
    assert outcomes["late"] > times // 10
    assert outcomes["ended"] > times // 10
    assert pool.stats().size <= 2


def test_psycopg_has_what_is_told_by_its_name():
    from psycopg import Connection, Cursor, ServerCursor, _copy, _pipeline, generators

    owners = (Connection, Cursor, ServerCursor, _copy.Copy, _pipeline.Pipeline, generators)
    for name in (*late.ENDINGS, *late.READS, "_commit_gen", "_execute_gen"):
        assert any(hasattr(owner, name) for owner in owners), name
    assert "exc_type" in psycopg.Transaction._exit_gen.__code__.co_varnames
    assert "query" in Cursor._execute_gen.__code__.co_varnames

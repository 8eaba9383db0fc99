"""Taking the connection of a lease away from an owner who does not let go."""

from __future__ import annotations

import gc
import logging
import random
import threading
from pathlib import Path
from typing import Any

import psycopg
import pytest

from django_poolkit.pools.postgres import steering
from django_poolkit.pools.postgres.cancel_request import CancelRequest
from django_poolkit.testing.waiting import wait_until
from tests.pools.support import Call, assert_adds_up, pid

pytestmark = pytest.mark.core


def descriptors() -> int:
    return sum(1 for _ in Path("/dev/fd").iterdir())


def killers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.endswith("-kill")]


def test_a_statement_that_runs_is_cancelled(make_pool, primary, app, caplog):
    caplog.set_level(logging.WARNING, "django_poolkit.pool")
    pool = make_pool(max_size=2, name="orders", kwargs={"application_name": app})
    other = pool.acquire()

    def work() -> None:
        with pool.acquire() as connection:
            connection.execute("SELECT pg_sleep(60)")

    call = Call(work)
    wait_until(lambda: any(lease.status == "active" for lease in pool.leases()))
    [lease] = [lease for lease in pool.leases() if lease.status == "active"]
    assert pool.kill(lease.key)
    with pytest.raises(psycopg.errors.QueryCanceled):
        call.result()
    assert other.connection.execute("SELECT 1").fetchone() == (1,)
    other.release()
    wait_until(lambda: f"pool=orders event=killed lease={lease.key}" in caplog.text)
    assert pool.stats().closed == {"killed": 1}  # it is not lent again, alive as it is
    assert_adds_up(pool, primary, app)


@pytest.mark.parametrize("statement", ["BEGIN", "SELECT 1"])
def test_one_that_runs_nothing_is_cut_off_at_once(make_pool, primary, app, statement):
    pool = make_pool(max_size=1, kwargs={"application_name": app})
    lease = pool.acquire()
    lease.connection.execute(statement)
    assert pool.kill(lease.key)
    wait_until(lambda: primary.sessions(app) == [])
    with pytest.raises(psycopg.OperationalError):
        lease.connection.execute("SELECT 1")
    lease.release()
    pool.acquire(timeout=5.0).release()
    assert_adds_up(pool, primary, app)


def test_who_goes_on_after_the_cancellation_is_cut_off(make_pool, primary, app, monkeypatch):
    monkeypatch.setattr(steering, "_CANCELLED", 0.1)
    pool = make_pool(max_size=1, kwargs={"application_name": app})
    cancelled = threading.Event()

    def work() -> None:
        with pool.acquire() as connection:
            with pytest.raises(psycopg.errors.QueryCanceled):
                connection.execute("SELECT pg_sleep(60)")
            cancelled.set()
            wait_until(lambda: primary.sessions(app) == [])
            connection.execute("SELECT 1")

    call = Call(work)
    wait_until(lambda: [lease.status for lease in pool.leases()] == ["active"])
    assert pool.kill(pool.leases()[0].key)
    with pytest.raises(psycopg.OperationalError):
        call.result()
    assert cancelled.is_set()
    assert_adds_up(pool, primary, app)


def test_a_server_that_cannot_be_asked_to_cancel_makes_no_difference(far_pool, proxy, caplog):
    pool = far_pool(max_size=1)

    def work() -> None:
        with pool.acquire() as connection:
            connection.execute("SELECT pg_sleep(60)")

    call = Call(work)
    wait_until(lambda: [lease.status for lease in pool.leases()] == ["active"])
    proxy.refuse()
    assert pool.kill(pool.leases()[0].key)
    with pytest.raises(psycopg.OperationalError):
        call.result()
    wait_until(lambda: "event=killed" in caplog.text)
    assert "event=cancel_failed" in caplog.text
    assert pool.stats().used == 0


def sleeping(primary, app) -> int:
    """How many of the statements of these tests run on the server."""
    where = f"state = 'active' AND application_name = '{app}' AND query LIKE '%pg_sleep(60)%'"
    return int(primary.execute(f"SELECT count(*) FROM pg_stat_activity WHERE {where}")[0][0])


def test_a_request_that_overtakes_its_statement_is_repeated(make_pool, primary, app, monkeypatch):
    pool = make_pool(max_size=1, kwargs={"application_name": app})
    send, asked = CancelRequest.send, []

    def first_is_lost(self: CancelRequest) -> None:
        asked.append(self)
        if len(asked) > 1:
            send(self)

    monkeypatch.setattr(CancelRequest, "send", first_is_lost)

    def work() -> None:
        with pool.acquire() as connection:
            connection.execute("SELECT pg_sleep(60)")

    call = Call(work)
    wait_until(lambda: sleeping(primary, app) == 1)
    assert pool.kill(pool.leases()[0].key)
    with pytest.raises(psycopg.errors.QueryCanceled):
        call.result()
    assert len(asked) >= 2
    assert_adds_up(pool, primary, app)


@pytest.mark.parametrize("safe", [True, False], ids=["libpq 17", "older"])
def test_nothing_runs_on_that_had_only_just_begun(make_pool, primary, app, monkeypatch, safe):
    if not safe:
        monkeypatch.setattr(psycopg.capabilities, "has_cancel_safe", lambda: False)
    pool = make_pool(max_size=8, stacks="none", kwargs={"application_name": app})
    chance = random.Random(3)

    def work(pause: float) -> None:
        with pool.acquire() as connection:
            key = connection._lease_ref().key
            timer = threading.Timer(pause, pool.kill, [key])
            timer.start()
            with pytest.raises(psycopg.OperationalError):
                connection.execute("SELECT pg_sleep(60)")
            timer.join()

    for _ in range(12):
        for call in [Call(work, chance.uniform(0, 0.004)) for _ in range(8)]:
            call.result()
    wait_until(lambda: not killers())
    wait_until(lambda: sleeping(primary, app) == 0)
    assert_adds_up(pool, primary, app)


def test_the_next_lease_of_the_connection_is_not_hit(make_pool):
    """The lease ends while it is being killed: nobody gets its connection, or its cancellation."""
    pool = make_pool(max_size=1)
    lease = pool.acquire()
    first = pid(lease)
    lease.connection.execute("BEGIN")
    assert pool.kill(lease.key)
    lease.release()
    with pool.acquire() as connection:
        assert connection.info.backend_pid != first
        for _ in range(20):
            connection.execute("SELECT pg_sleep(0.01)")


def test_a_lease_that_is_none_is_not_killed(make_pool):
    pool = make_pool(max_size=1)
    assert not pool.kill(1)
    lease = pool.acquire()
    key = lease.key
    lease.release()
    assert not pool.kill(key)
    lease = pool.acquire()
    lease.connection.close()
    assert not pool.kill(lease.key)
    lease.release()


def test_it_leaves_nothing_behind(make_pool):
    pool = make_pool(max_size=1)
    pool.acquire().release()
    wait_until(lambda: not killers())  # those of the tests before
    gc.collect()
    before = descriptors()
    for _ in range(10):
        lease = pool.acquire()
        assert pool.kill(lease.key)
        lease.release()
    pool.acquire().release()
    wait_until(lambda: not killers())
    wait_until(lambda: descriptors() == before)


def test_two_who_kill_the_same_one(make_pool):
    pool = make_pool(max_size=1)
    lease = pool.acquire()
    found: list[Any] = [pool.kill(lease.key), pool.kill(lease.key)]
    wait_until(lambda: not killers())
    lease.release()
    assert found[0] is True
    assert sum(pool.stats().closed.values()) == 1

"""Servers that go, hang and come back, and the pool that has to live with them."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

import psycopg
import pytest
from django.db import OperationalError, connection

from django_poolkit.pools.errors import PoolTimeout
from django_poolkit.testing.processes import is_alive
from django_poolkit.testing.waiting import wait_until
from tests.app.models import Item
from tests.pools.support import Call, assert_adds_up, fill, idle_pids
from tests.scenarios.conftest import NAME

CAP = 2.0  # of the pool's pauses between two connects
SLACK = 3.0


def visitor(until: threading.Event, served: list[float], refused: list[OperationalError]) -> None:
    """Come twice a second; note when one was served, and what the others were told."""
    while not until.is_set():
        try:
            Item.objects.count()
            served.append(monotonic())
        except OperationalError as error:
            refused.append(error)
        finally:
            connection.close()
        until.wait(0.5)


@pytest.mark.parametrize(
    "seconds",
    [
        2.0,
        *(pytest.param(each, marks=pytest.mark.slow) for each in (5.0, 20.0, 35.0)),
        pytest.param(120.0, marks=[pytest.mark.slow, pytest.mark.timeout(300)]),
    ],
)
def test_service_is_back_soon_however_long_the_outage_was(pooled, primary, seconds):
    pool = pooled(max_size=4, timeout=1.0)
    fill(pool, 4)
    over = threading.Event()
    served: list[float] = []
    refused: list[OperationalError] = []
    call = Call(visitor, over, served, refused)
    wait_until(lambda: served)
    primary.stop("immediate")
    began = monotonic()
    wait_until(lambda: monotonic() - began > seconds, seconds + 1.0)
    primary.start()
    back = monotonic()
    try:
        # A pause of the pool, at the longest, and the visitor's own.
        wait_until(lambda: served[-1] > back, (CAP * 1.1 + 0.5) * SLACK)
    finally:
        over.set()
    call.result(30.0)
    # Nobody waited for longer than he was ready to, and each was told why.
    assert refused
    told = [error for error in refused if isinstance(error, PoolTimeout)]
    assert told
    for error in told:
        assert 0.9 <= error.waited < 1.0 * SLACK
        assert "last connect error: OperationalError [08" in str(error) or "57P03" in str(error)
        assert "used 0/4" in str(error)


def test_who_will_not_wait_is_told_why_at_once(pooled, primary):
    pool = pooled(max_size=2, timeout=10.0)
    fill(pool, 2)
    primary.stop()
    try:
        with pytest.raises(PoolTimeout):
            pool.acquire(timeout=0.3)
        started = monotonic()
        with pytest.raises(PoolTimeout, match=r"last connect error: .*\[08001\]"):
            pool.acquire(timeout=0)
        assert monotonic() - started < 1.0
    finally:
        primary.start()


def test_a_minimum_is_back_after_all_of_it_was_killed_under_a_crowd(make_pool, primary):
    pool = make_pool(min_size=8, max_size=8, kwargs={"application_name": NAME})
    dead = set(fill(pool, 8))
    primary.kill_backends(NAME)

    def query() -> int:
        with pool.lease() as raw:
            return int(raw.execute("SELECT pg_backend_pid()").fetchone()[0])

    calls = [Call(query) for _ in range(16)]
    assert not {call.result() for call in calls} & dead
    wait_until(lambda: pool.stats().idle == 8)
    assert pool.stats().closed == {"dead": 8}
    assert_adds_up(pool, primary, NAME)


def test_the_loss_of_a_backend_in_the_middle_of_a_statement(pooled, primary):
    pool = pooled(max_size=2)

    def query(statement: str) -> None:
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement)
        finally:
            connection.close()

    call = Call(query, "SELECT pg_sleep(60)")

    def running() -> list[int]:
        sessions = primary.sessions(NAME)
        return [s.pid for s in sessions if s.state == "active" and "pg_sleep" in s.query]

    [backend] = wait_until(running)
    primary.kill_backend(backend)
    with pytest.raises(OperationalError) as lost:
        call.result()
    assert isinstance(lost.value.__cause__, psycopg.errors.AdminShutdown)
    assert pool.stats().closed == {"broken": 1}
    query("SELECT 1")
    assert pool.stats().connects == 2


@contextmanager
def frozen(*processes: int) -> Iterator[None]:
    """Stop processes for the length of a block, as a machine that hangs does."""
    for process in processes:
        os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            if is_alive(process):
                os.kill(process, signal.SIGCONT)


def test_backends_that_hang_are_left_for_others(make_pool, primary):
    """Their sockets are open, and the kernel acknowledges what they are sent."""
    pool = make_pool(max_size=4, bypass=0.0, probe_timeout=0.5, kwargs={"application_name": NAME})
    stuck = fill(pool, 4)
    with frozen(*stuck):
        started = monotonic()
        with pool.lease() as raw:
            assert raw.execute("SELECT 1").fetchone() == (1,)
            assert raw.info.backend_pid not in stuck
        # One was asked. The others were last heard of before it.
        assert monotonic() - started < 0.5 * SLACK
        assert pool.stats().closed == {"silent": 4}
    assert_adds_up(pool, primary, NAME)


def test_a_machine_that_hangs_is_waited_for_no_longer_than_one_is_ready_to(make_pool, primary):
    """The server, too: it takes connects, and answers none of them."""
    pool = make_pool(max_size=4, bypass=0.0, probe_timeout=0.5, kwargs={"application_name": NAME})
    with frozen(primary.pid, *fill(pool, 4)):
        for _ in range(2):
            started = monotonic()
            with pytest.raises(PoolTimeout, match=r"no connection within 1\.00 s"):
                pool.acquire(timeout=1.0)
            assert monotonic() - started < 1.0 * SLACK
    primary.wait_ready()
    pool.acquire().release()
    assert_adds_up(pool, primary, NAME)


def test_a_pool_follows_its_load_up_and_down(make_pool, primary):
    pool = make_pool(
        min_size=3, max_size=20, max_idle=0.6, timeout=30.0, kwargs={"application_name": NAME}
    )
    pool.open()
    for load in (5, 20, 5):
        meet = threading.Barrier(load)

        def hold(meet: threading.Barrier = meet) -> None:
            with pool.lease() as raw:
                meet.wait(30.0)
                raw.execute("SELECT 1")

        for call in [Call(hold) for _ in range(load)]:
            call.result(30.0)
        assert load <= pool.stats().size <= 20
        # After the time of `max_idle` and a round of the housekeeper, which is a quarter of it.
        wait_until(lambda: pool.stats().size == 3, 0.75 * SLACK + 1.0)
    assert set(pool.stats().closed) == {"max_idle"}
    assert len(idle_pids(pool)) == 3
    assert_adds_up(pool, primary, NAME)


@pytest.mark.slow
def test_those_that_were_born_together_do_not_die_together(make_pool):
    """They expire within two seconds, while all traffic goes to the one used last."""
    pool = make_pool(min_size=20, max_size=20, max_lifetime=8.0, timeout=30.0)
    pool.open()
    pool.wait(30.0)
    least, born = 20, monotonic()
    while monotonic() - born < 20.0:
        stats = pool.stats()
        least = min(least, stats.idle + stats.used)
        with pool.lease():
            pass
    # There is no room for a replacement: one goes at a time. All have, twice.
    assert pool.stats().closed["max_lifetime"] >= 40
    assert least >= 19, least

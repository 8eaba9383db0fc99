"""A database is asked beside its pool: what is busy is not down, and what is down is told so."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
import pytest
from django.db import router
from django.test import override_settings

from django_poolkit import connection_pools, registry
from django_poolkit.health.database import DatabaseCheck
from django_poolkit.routing import ReadWriteRouter, admission
from django_poolkit.routing.breaker import MOST_LOOKS, Circuit, Reason
from django_poolkit.testing import Cluster
from django_poolkit.testing.waiting import wait_until
from tests.pools.support import queue_up, unique

ROOT = Path(__file__).parents[2]
PATIENCE = 20.0
"""Seconds after which something will not happen any more."""

pytestmark = pytest.mark.usefixtures("transactional_db", "clean_pools")


@pytest.fixture
def check():
    check = DatabaseCheck(alias="default")
    yield check
    check.close()


def timed(check, seconds=0.8):
    """Return the result, and how long the look took."""
    started = time.monotonic()
    return check.look(seconds), time.monotonic() - started


def verdict(result):
    return result.status, result.reason


@contextmanager
def full(pool):
    """Have all connections of a pool leased."""
    with ExitStack() as stack:
        for _ in range(pool.max_size):
            stack.enter_context(pool.lease())
        yield


# -- a pool of ours


def test_a_pool_that_nobody_has_opened_stays_so(check):
    result = check.look(0.8)
    assert verdict(result) == ("pass", None)
    assert 0 < result.latency < 0.8
    assert (result.lag, result.figures.size, result.figures.waiters) == (None, 0, 0)
    stats = connection_pools["default"].stats()
    assert (stats.size, stats.acquired, stats.probing) == (0, 0, 1)


def test_a_busy_pool_is_asked_beside_and_nobody_waits_for_that(check):
    pool = connection_pools["default"]
    with full(pool):
        result, seconds = timed(check)
        assert verdict(result) == ("pass", None)
        assert (result.figures.used, result.figures.max_size, result.figures.utilization) == (
            8, 8, 1.0,
        )  # fmt: skip
        assert seconds < 0.8
        assert pool.stats().acquired == 8


def test_a_saturated_pool_is_warned_of_and_not_waited_for(check):
    pool = connection_pools["default"]
    with full(pool):
        waiter = queue_up(pool, pool.acquire)
        result, seconds = timed(check)
        assert verdict(result) == ("warn", "saturated")
        assert (result.figures.waiters, pool.stats().waiters) == (1, 1)
        assert result.latency is not None
        assert seconds < 0.8
    waiter.result().release()


def test_a_pool_whose_first_users_wait_for_its_first_connects_passes(check, monkeypatch):
    pool = connection_pools["default"]
    connects, gate = pool._connector.connect, threading.Event()

    def connect(*args, **options):
        assert gate.wait(PATIENCE)
        return connects(*args, **options)

    monkeypatch.setattr(pool._connector, "connect", connect)
    waiters = [queue_up(pool, pool.acquire) for _ in range(pool.num_workers)]
    try:
        result = check.look(0.8)
        assert verdict(result) == ("pass", None)
        assert (result.figures.used, result.figures.waiters) == (0, pool.num_workers)
        waiters.append(queue_up(pool, pool.acquire))
        assert verdict(check.look(0.8)) == ("warn", "saturated")
    finally:
        gate.set()
        for waiter in waiters:
            waiter.result(PATIENCE).release()


def test_a_full_pool_in_which_nothing_moves_is_stuck(check):
    pool = connection_pools["default"]
    with full(pool), override_settings(POOLKIT={"HEALTH": {"STUCK_AFTER": 0.2}}):
        waiter = queue_up(pool, pool.acquire)
        wait_until(lambda: pool.stats().standstill > 0.2, message="something moves")
        assert verdict(check.look(0.8)) == ("fail", "stuck")
    waiter.result().release()


def test_a_paused_pool_fails_without_a_question(check):
    pool = connection_pools["default"]
    pool.pause(30.0)
    assert verdict(check.look(0.8)) == ("fail", "paused")
    assert pool.stats().probing == 0
    pool.resume()
    assert verdict(check.look(0.8)) == ("pass", None)


def test_after_the_shutdown_nothing_is_opened(check):
    registry.pools.shut_down()
    try:
        assert verdict(check.look(0.8)) == ("fail", "closed")
        assert len(registry.pools) == 0
    finally:
        registry.pools.reopen()


def test_closing_ends_the_connection_that_is_kept(check):
    check.look(0.8)
    assert connection_pools["default"].stats().probing == 1
    check.close()
    assert connection_pools["default"].stats().probing == 0


# -- a server that is not well


def test_a_stopped_server_fails_in_time_and_its_return_is_seen_at_once(check, primary):
    check.look(0.8)
    primary.stop()
    try:
        result, seconds = timed(check)
        assert verdict(result) == ("fail", "unreachable")
        assert seconds < 0.8
        assert result.figures is not None
    finally:
        primary.start()
    assert verdict(check.look(0.8)) == ("pass", None)


@pytest.mark.parametrize("asked_before", [False, True])
def test_a_frozen_server_fails_in_time(asked_before, check, primary):
    if asked_before:
        check.look(0.8)
    primary.pause()
    try:
        result, seconds = timed(check)
    finally:
        primary.resume()
    assert verdict(result) == ("fail", "timeout")
    assert seconds < 0.85
    assert verdict(check.look(0.8)) == ("pass", None)


@pytest.mark.parametrize("asked_before", [False, True])
def test_a_network_that_swallows_everything_fails_in_time(asked_before, far):
    check, proxy = far
    if asked_before:
        assert verdict(check.look(0.8)) == ("pass", None)
    proxy.stall()
    threads = threading.active_count()
    result, seconds = timed(check)
    assert verdict(result) == ("fail", "timeout")
    assert seconds < 0.85
    assert threading.active_count() == threads
    assert connection_pools["far"].stats().probing == 0
    proxy.resume()
    assert verdict(check.look(0.8)) == ("pass", None)


def test_a_connection_that_the_server_ended_is_replaced_and_the_check_passes(check, primary):
    check.look(0.8)
    kept = connection_pools["default"].prober._connection
    assert kept is not None
    primary.kill_backend(kept.info.backend_pid)
    assert verdict(check.look(0.8)) == ("pass", None)


def test_a_wrong_password_is_told(add, caplog):
    check = add("wrong", PASSWORD="wr0ng-s3cret")
    assert verdict(check.look(0.8)) == ("fail", "auth_failed")
    assert "check=db:wrong event=probe_failed reason=auth_failed" in caplog.text
    assert "s3cret" not in caplog.text


def test_an_outage_is_told_of_once(add, caplog):
    check = add("wrong", NAME="nowhere")
    for _ in range(3):
        assert verdict(check.look(0.8)) == ("fail", "config_error")
    assert caplog.text.count("event=probe_failed") == 1


@pytest.mark.parametrize("at_work", [True, False])
def test_a_server_without_a_connection_left_is_no_outage_of_those_who_have_one(
    at_work, add, primary
):
    primary.execute("CREATE ROLE narrow LOGIN SUPERUSER PASSWORD 'x' CONNECTION LIMIT 1")
    primary.execute("ALTER ROLE narrow NOSUPERUSER")
    narrow = {"USER": "narrow", "PASSWORD": "x"}
    check = add("narrow", **narrow)
    try:
        if at_work:
            with connection_pools["narrow"].lease() as connection:
                assert verdict(check.look(0.8)) == ("warn", "saturated")
                assert connection.execute("SELECT 1").fetchone() == (1,)
            connection_pools["narrow"].close()
        else:
            with psycopg.connect(**primary.conninfo() | {"user": "narrow", "password": "x"}):
                assert verdict(check.look(0.8)) == ("fail", "saturated")
    finally:
        query = "SELECT 1 FROM pg_stat_activity WHERE usename = 'narrow'"
        wait_until(lambda: not primary.execute(query), message="it is still connected")
        primary.execute("DROP ROLE narrow")


def test_a_default_of_read_only_fails_unless_the_alias_is_for_reading(add):
    check = add("reports", OPTIONS={"options": "-c default_transaction_read_only=on"})
    assert verdict(check.look(0.8)) == ("fail", "read_only")
    with override_settings(POOLKIT={"HEALTH": {"REPLICAS": ["reports"]}}):
        assert verdict(check.look(0.8)) == ("pass", None)


# -- without a pool of ours


@pytest.mark.parametrize(
    "entry",
    [
        {"OPTIONS": {"pool": False}},
        {"ENGINE": "django.db.backends.postgresql", "OPTIONS": {"pool": True}},
        {"ENGINE": "django.db.backends.postgresql", "OPTIONS": {}},
    ],
)
def test_postgresql_without_our_pool_is_asked_in_the_same_way(entry, add, primary):
    app = unique()
    entry["OPTIONS"] = {**entry["OPTIONS"], "application_name": app}
    check = add("bare", **entry)
    query = "SELECT pid FROM pg_stat_activity WHERE application_name = %s"
    for _ in range(2):
        result = check.look(0.8)
        assert verdict(result) == ("pass", None)
        assert result.figures is None
    [(pid,)] = primary.execute(query, (app,))
    os.kill(pid, signal.SIGSTOP)
    try:
        assert verdict(check.look(0.8)) == ("pass", None)
    finally:
        os.kill(pid, signal.SIGCONT)
    check.close()
    wait_until(lambda: primary.execute(query, (app,)) == [], message="it is left")


def test_a_project_on_sqlite_is_asked_too(tmp_path):
    path = tmp_path / "shop.db"
    program = f"""
import pathlib
from django.conf import settings
entry = {{"ENGINE": "django.db.backends.sqlite3", "NAME": {str(path)!r}}}
settings.configure(INSTALLED_APPS=["django_poolkit"], DATABASES={{"default": entry}},
                   POOLKIT={{"HEALTH": {{"CACHE": 0}}}})
import django; django.setup()
from django_poolkit import health

def ask():
    [result] = health.report("db/default").results
    print(result.status, result.reason, result.figures, 0 < result.latency < 0.8)

path = pathlib.Path({str(path)!r})
ask()
path.write_bytes(b"no database, but a letter of a length that has to be read " * 20)
ask()
path.unlink()
path.mkdir()
ask()
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], cwd=ROOT, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.stdout.splitlines() == [
        "pass None None True", "fail unreachable None True", "fail unreachable None True",
    ]  # fmt: skip
    assert "Traceback" not in done.stderr


# -- a replica


def test_a_replica_is_told_from_a_primary_and_says_how_far_behind_it_is(add):
    with Cluster(replicas=1) as cluster:
        [replica] = cluster.replicas
        check = add("replica", **replica.django_settings())
        assert verdict(check.look(0.8)) == ("fail", "read_only")
        section = {"REPLICAS": ["replica"], "LAG_WARN": 0.3, "LAG_FAIL": 1000}
        with override_settings(POOLKIT={"HEALTH": section}):
            cluster.primary.execute("CREATE TABLE written (at timestamptz)")
            cluster.primary.wait_caught_up(replica)
            result = check.look(0.8)
            assert (*verdict(result), result.lag) == ("pass", None, 0.0)

            replica.pause_replay()
            cluster.primary.execute("INSERT INTO written VALUES (now())")
            wait_until(lambda: check.look(0.8).reason == "lagging", message="it keeps up")
            assert check.look(0.8).lag > 0.3
            replica.resume_replay()
            cluster.primary.wait_caught_up(replica)
            assert verdict(check.look(0.8)) == ("pass", None)

            # Nothing is left to replay, and yet nobody can say that it is up to date.
            replica.cut_streaming()
            wait_until(lambda: check.look(0.8).reason == "lagging", message="it seems up to date")

            with override_settings(POOLKIT={"HEALTH": {**section, "LAG_FAIL": 0.3}}):
                assert verdict(check.look(0.8)) == ("fail", "lagging")


# -- a replica that the router reads


@pytest.fixture
def routed(far, monkeypatch):
    """Return a function that makes the alias `far` the replica of a cluster, with more settings."""
    monkeypatch.setattr(router, "routers", [ReadWriteRouter()])

    def route(**more):
        clusters = {"default": {"replicas": ["far"], **more}}
        return override_settings(POOLKIT={"CLUSTERS": clusters})

    yield route
    admission.publish({})


def test_a_replica_that_is_down_fails_only_where_nothing_is_read_in_its_place(
    far, routed, monkeypatch
):
    check, proxy = far
    proxy.refuse()
    assert verdict(check.look(0.8)) == ("fail", "unreachable")
    with routed():
        assert verdict(check.look(0.8)) == ("warn", "unreachable")
        monkeypatch.setattr(router, "routers", [])
        assert verdict(check.look(0.8)) == ("fail", "unreachable")
        monkeypatch.setattr(router, "routers", [ReadWriteRouter()])
    for more in ({"all_down": "error"}, {"watch": False}):
        with routed(**more):
            assert verdict(check.look(0.8)) == ("fail", "unreachable")
    # The primary of a cluster is not dispensable.
    with override_settings(POOLKIT={"CLUSTERS": {"default": {"primary": "far"}}}):
        assert verdict(check.look(0.8)) == ("fail", "unreachable")


def test_a_replica_that_is_not_read_is_warned_of_although_it_answers(far, routed):
    check, _ = far
    with routed():
        assert verdict(check.look(0.8)) == ("pass", None)
        circuit = Circuit()
        reasons: tuple[tuple[Reason, str], ...] = (("refuses", "evicted"), ("cut", "lagging"))
        for reason, said in reasons:
            circuit.bad(reason)
            admission.publish({"far": circuit})
            assert verdict(check.look(0.8)) == ("warn", said)
        for _ in range(MOST_LOOKS):
            circuit.good()
        assert circuit.state == "trial"
        assert verdict(check.look(0.8)) == ("pass", None)

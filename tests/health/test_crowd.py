"""Many who ask, and a process that forks: the database is asked as often as it is meant to be."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest
from django.test import override_settings

from django_poolkit import connection_pools, health
from django_poolkit.testing import Cluster
from django_poolkit.testing.waiting import wait_until
from tests.pools.support import Call, queue_up

ROOT = Path(__file__).parents[2]
CACHE = 0.25
SECONDS = 1.5


@pytest.mark.usefixtures("transactional_db", "clean_pools")
def test_a_crowd_asks_the_database_once_a_period_and_takes_nothing_from_its_users(far):
    _, proxy = far
    pool = connection_pools["far"]
    leases = [pool.acquire() for _ in range(pool.max_size)]
    waiter = queue_up(pool, pool.acquire)
    with override_settings(POOLKIT={"HEALTH": {"CACHE": CACHE}}):
        health.report("db/far")  # the connection is there from now on
        threads, trips = threading.active_count(), proxy.round_trips
        started = time.monotonic()
        in_threads = [Call(ask_on_and_on, started) for _ in range(20)]
        answers, resolved, most = asyncio.run(crowd(started))
        seconds = time.monotonic() - started
        for call in in_threads:
            answers |= call.result()
        stats = pool.stats()
    assert answers == {("warn", "saturated")}
    # One a period, and never a second beside it.
    asked = proxy.round_trips - trips
    assert 2 <= asked <= seconds / CACHE + 1
    assert resolved < 0.2
    # Those of the crowd, and the loop's own for names; for the check there was one before.
    assert most <= threads + len(in_threads) + 1
    assert (stats.used, stats.waiters, stats.probing, stats.acquired) == (2, 1, 1, 2)
    for lease in leases:
        lease.release()
    waiter.result().release()


def ask_on_and_on(started):
    answers = set()
    while time.monotonic() - started < SECONDS:
        [result] = health.report("db/far").results
        answers.add((result.status, result.reason))
        time.sleep(0.001)
    return answers


async def crowd(started):
    """Have 180 tasks ask; return what they heard, how long a name took, and the most threads."""

    async def one():
        answers = set()
        while time.monotonic() - started < SECONDS:
            [result] = (await health.areport("db/far")).results
            answers.add((result.status, result.reason))
            await asyncio.sleep(0.01)
        return answers

    tasks = [asyncio.create_task(one()) for _ in range(180)]
    await asyncio.sleep(0.2)
    before = time.monotonic()
    await asyncio.get_running_loop().getaddrinfo("localhost", 80)
    resolved = time.monotonic() - before
    most = threading.active_count()
    return set().union(*await asyncio.gather(*tasks)), resolved, most


FORKING = """
import json, os, sys
import django
from django.conf import settings

settings.configure(
    INSTALLED_APPS=["django_poolkit"],
    DATABASES={"default": json.loads(os.environ["DATABASE"])},
    POOLKIT={"HEALTH": {"CACHE": 0}, "CONTROL": {"ENABLED": False}},
)
django.setup()
from django_poolkit import connection_pools, health

def ask():
    [result] = health.report("db").results
    return result.status, connection_pools["default"].prober._connection.info.backend_pid

@health.check("whose", groups=["own"], cache=3600)
def whose():
    return health.Result(name="whose", status="pass", lag=float(os.getpid()))

def looks_itself():
    return health.report("own").results[0].lag == os.getpid()

status, pid = ask()
assert status == "pass" and looks_itself()
read, write = os.pipe()
if not (child := os.fork()):
    assert connection_pools["default"].stats().probing == 0
    assert looks_itself()
    os.write(write, json.dumps(ask()).encode())
    sys.exit(0)  # with all that an interpreter does at its end
os.close(write)
answer = json.loads(os.read(read, 1000))
_, ended = os.waitpid(child, 0)
assert ended == 0, ended
assert answer[0] == "pass" and answer[1] != pid, answer
# The child has ended, and not the parent's connection with it.
assert ask() == ("pass", pid)
print("done")
"""


def test_a_forked_child_asks_on_a_connection_of_its_own(primary):
    database = {
        "ENGINE": "django_poolkit.backends.postgresql",
        "OPTIONS": {"pool": {}},
        **primary.django_settings("postgres"),
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c", FORKING],
        env=os.environ | {"DATABASE": json.dumps(database)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("done\n", "")


def test_at_exit_nothing_hangs_and_nothing_is_left(primary):
    """Also where a check still hangs."""
    program = (
        FORKING.split("status, pid = ask()")[0]
        + """
import threading
@health.check("hangs", groups=["shop"])
def hangs():
    threading.Event().wait()
assert ask()[0] == "pass"
assert health.report("shop").results[0].reason == "timeout"
print("done")
"""
    )
    database = {
        "ENGINE": "django.db.backends.postgresql",
        "OPTIONS": {"application_name": "leaves-nothing"},
        **primary.django_settings("postgres"),
    }
    program = program.replace(
        'connection_pools["default"].prober._connection.info.backend_pid', "None"
    )
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env=os.environ | {"DATABASE": json.dumps(database)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout == "done\n"
    assert "Warning" not in done.stderr
    assert time.monotonic() - started < 8.0
    query = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'leaves-nothing'"
    wait_until(lambda: not primary.execute(query), message="a connection is left")


@pytest.mark.usefixtures("transactional_db", "clean_pools")
def test_a_server_at_max_connections_is_told_from_one_that_is_down(add):
    with Cluster() as cluster, ExitStack() as crowd:
        primary = cluster.primary
        primary.set("max_connections", 12, restart=True)
        primary.execute("CREATE ROLE anybody LOGIN PASSWORD 'x'")
        check = add("crowded", **primary.django_settings() | {"USER": "anybody", "PASSWORD": "x"})
        pool = connection_pools["crowded"]
        lease = pool.acquire()
        with pytest.raises(psycopg.OperationalError, match="connection slots"):
            while True:
                place = primary.conninfo() | {"user": "anybody", "password": "x"}
                crowd.enter_context(psycopg.connect(**place))
        # Nobody new gets in, and those who are in go on.
        result = check.look(0.8)
        assert (result.status, result.reason) == ("warn", "saturated")
        lease.discard()
        crowd.enter_context(psycopg.connect(**place))  # somebody was faster
        result = check.look(0.8)
        assert (result.status, result.reason) == ("fail", "saturated")

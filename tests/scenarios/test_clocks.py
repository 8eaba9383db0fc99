"""Clocks that jump, and processes that are stopped and do not know."""

from __future__ import annotations

import ast
import time
from pathlib import Path

import pytest

import django_poolkit.pools as package
from django_poolkit.testing.waiting import wait_until
from tests.pools.support import fill, idle_pids, queue_up
from tests.scenarios.scripts import run_script

DAY = 86_400.0
POOLS = Path(package.__file__).parent
# What converts the values of columns has to know the types of dates.
OF_VALUES = {POOLS / "asyncpg" / "codecs.py", POOLS / "asyncpg" / "connect.py"}


@pytest.mark.parametrize(
    "path", sorted(set(POOLS.rglob("*.py")) - OF_VALUES), ids=lambda p: f"{p.parent.name}/{p.name}"
)
def test_no_pool_asks_what_time_it_is(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "time":
            assert not {alias.name for alias in node.names} & {"time", "time_ns", "localtime"}
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.name for alias in node.names]
            assert "datetime" not in (*names, getattr(node, "module", None))


@pytest.mark.parametrize("jump", [-DAY, DAY])
def test_a_clock_that_is_set_evicts_nobody_and_delays_nobody(make_pool, monkeypatch, jump):
    """psycopg_pool's part of it included: schedules, lifetimes."""
    pool = make_pool(min_size=2, max_size=3, max_idle=5.0, max_lifetime=60.0, keepalive=0.2)
    pids = fill(pool, 3)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + jump)
    rounds = pool._ledger.acquired
    leases = [pool.acquire() for _ in range(3)]
    waiter = queue_up(pool, lambda: pool.acquire().release())
    assert 0.0 <= pool.stats().oldest_waiter < 30.0
    for lease in leases:
        assert 0.0 <= lease.seconds() < 30.0
        lease.release()
    waiter.result()
    pool.keep_house()
    stats = pool.stats()
    assert stats.acquired == rounds + 4
    assert stats.closed == {}
    assert sorted(idle_pids(pool)) == sorted(pids)
    assert 0.0 <= stats.wait.sum < 30.0
    assert 0.0 <= stats.use.sum < 120.0
    # What comes by the clock goes on coming.
    set_at = time.monotonic()
    wait_until(lambda: all(connection._used_at > set_at for connection in list(pool._pool)))


STOPPED = """
import signal, subprocess, threading, time
from django_poolkit import connection_pools
from django_poolkit.pools.errors import PoolTimeout
from django_poolkit.testing.waiting import wait_until

pool = connection_pools["default"]
leases = [pool.acquire() for _ in range(4)]
known = sorted(lease.connection.info.backend_pid for lease in leases)
for lease in leases:
    lease.release()
held = [pool.acquire() for _ in range(4)]
told = []

def wait():
    try:
        pool.acquire(timeout=1.0).release()
    except PoolTimeout as error:
        told.append(error.waited)

waiter = threading.Thread(target=wait)
waiter.start()
wait_until(lambda: pool.stats().waiters == 1)
# Nobody of this process sees the time pass.
subprocess.Popen(["sh", "-c", f"sleep {seconds}; kill -CONT {os.getpid()}"])
os.kill(os.getpid(), signal.SIGSTOP)
waiter.join()
assert len(told) == 1 and told[0] >= 1.0, told
assert all(lease.seconds() >= {seconds} for lease in held)
for lease in held:
    lease.release()
pool.keep_house()
leases = [pool.acquire() for _ in range(4)]
assert sorted(lease.connection.info.backend_pid for lease in leases) == known
for lease in leases:
    assert lease.connection.execute("SELECT 1").fetchone() == (1,)
    lease.release()
stats = pool.stats()
assert (stats.closed, stats.leaks, stats.timeouts, stats.size) == ({{}}, 0, 1, 4), stats
assert stats.oldest_waiter == 0.0 and stats.use.sum >= {seconds} * 4
print("whole")
"""


@pytest.mark.parametrize("seconds", [2, pytest.param(60, marks=pytest.mark.slow)])
def test_a_process_that_was_stopped_goes_on_with_what_it_had(primary, seconds):
    script = STOPPED.replace("{os.getpid()}", "{{os.getpid()}}").format(seconds=seconds)
    script = script.replace("subprocess.Popen(", "helper = subprocess.Popen(")
    outcome = run_script(primary, script + "helper.wait()\n", max_size=4, max_lifetime=3600.0)
    assert outcome.lines == ["whole"], outcome.errors
    assert (outcome.errors, outcome.status) == ("", 0)

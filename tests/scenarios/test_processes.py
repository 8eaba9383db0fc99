"""The pains that only whole processes have: forks of every end, commands, and their exits."""

from __future__ import annotations

import pytest

from django_poolkit.testing.waiting import wait_until
from tests.scenarios.scripts import NAME, run_script

pytestmark = pytest.mark.core

# An exit gives the pools' threads 1 s, three times over: the interpreter's own part alone takes
# long where the machine is busy. psycopg_pool's threads may hold it up for 5 s.
SOON = 3.0


def assert_clean_end(outcome, primary):
    assert (outcome.errors, outcome.status) == ("", 0)
    assert outcome.farewell < SOON
    wait_until(lambda: not primary.sessions(NAME), 5.0)


@pytest.mark.parametrize("options", [{}, {"max_size": 4, "bypass": 0.0}])
def test_a_command_opens_one_connection_and_ends_at_once(primary, options):
    outcome = run_script(
        primary,
        """
        import threading
        from django.core.management import call_command
        call_command("check", database=["default"])
        print(sessions())
        print(len([t for t in threading.enumerate() if "worker" in t.name]))
        """,
        **options,
    )
    assert outcome.lines[-2:] == ["1", "1"]
    assert_clean_end(outcome, primary)


def test_a_command_ends_at_once_with_a_lease_and_a_minimum(primary):
    outcome = run_script(
        primary,
        """
        import time
        from django_poolkit.testing.waiting import wait_until
        one("SELECT 1")
        wait_until(lambda: sessions() == 4)
        print("done")
        """,
        min_size=4,
        max_size=4,
    )
    assert_clean_end(outcome, primary)


def test_a_command_that_fails_says_so_and_nothing_else(primary):
    outcome = run_script(primary, "one('SELECT 1')\nsys.exit('no such shop')")
    assert (outcome.errors, outcome.status) == ("no such shop\n", 1)
    wait_until(lambda: not primary.sessions(NAME), 5.0)


def test_a_command_that_never_asks_opens_nothing(primary):
    outcome = run_script(
        primary,
        """
        import threading
        from django_poolkit import connection_pools
        pool = connection_pools["default"]
        print(pool.stats().size, threading.active_count())
        """,
        min_size=2,
    )
    assert outcome.lines == ["0 1"]
    assert_clean_end(outcome, primary)


@pytest.mark.parametrize("leased", ["", "kept = pool.acquire()"], ids=["idle", "leased"])
def test_a_script_with_a_pool_of_its_own_need_not_close_it(primary, leased):
    outcome = run_script(
        primary,
        f"""
        from django_poolkit.pools.postgres import ConnectionPool
        from django_poolkit.testing.waiting import wait_until
        params = connection.get_connection_params()
        params.pop("pool", None)
        pool = ConnectionPool(kwargs=params, min_size=2)
        with pool.lease() as raw:
            print(raw.execute("SELECT 1").fetchone()[0])
        wait_until(lambda: pool.stats().idle == 2)
        {leased}
        print("done")
        """,
    )
    assert outcome.lines == ["1", "done"]
    assert_clean_end(outcome, primary)


def test_threads_at_work_do_not_hold_up_the_exit(primary):
    outcome = run_script(
        primary,
        """
        import threading
        from django_poolkit.testing.waiting import wait_until

        def work():
            try:
                while True:
                    one("SELECT pg_sleep(0.001)")
                    connection.close()
            except Exception:
                pass  # the process ends

        for _ in range(4):
            threading.Thread(target=work, daemon=True).start()
        wait_until(lambda: sessions() >= 3)
        print("done")
        """,
        max_size=4,
    )
    assert outcome.lines == ["done"]
    assert outcome.farewell < 2 * SOON
    assert "Fatal" not in outcome.errors
    wait_until(lambda: not primary.sessions(NAME), 5.0)


FORK = """
import signal
from django.db import transaction
from django_poolkit import connection_pools

# Two idle connections, one leased: all of them are the parent's, and stay so.
pool = connection_pools["default"]
with pool.lease(), pool.lease(), pool.lease():
    pass
mine = pid()
known = {mine} | {c.info.backend_pid for c in pool._pool}

def fork(end):
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.write(write, f"{pid()} {one('SELECT count(*) FROM pg_stat_activity')}".encode())
        os.close(write)
        end()
        os._exit(9)
    os.close(write)
    answer = os.read(read, 100).decode()
    os.close(read)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return int(answer.split()[0]), status
"""


@pytest.mark.parametrize(
    ("end", "status"),
    [
        ("lambda: os._exit(0)", 0),
        ("lambda: sys.exit(0)", 0),
        ("lambda: os.kill(os.getpid(), signal.SIGKILL)", -9),
        ("lambda: (connection.close(), connection.close_pool(), os._exit(0))", 0),
    ],
    ids=["_exit", "exit", "kill", "close"],
)
def test_a_preloaded_parent_survives_every_end_of_its_children(primary, end, status):
    # One thread at the time of the fork, as in a server that preloads: else Python itself warns.
    outcome = run_script(
        primary,
        FORK
        + f"""
import warnings
warnings.filterwarnings("ignore", "This process", DeprecationWarning)
theirs = []
for _ in range(4):
    child, status = fork({end})
    assert status == {status}, status
    assert child not in known, (child, known)
    theirs.append(child)
assert len(set(theirs)) == 4
assert pid() == mine
for _ in range(20):
    connection.close()
    assert pid() in known
leases = [pool.acquire(), pool.acquire()]
assert {{l.connection.info.backend_pid for l in leases}} | {{pid()}} == known
for lease in leases:
    lease.connection.execute("SELECT 1")
    lease.release()
stats = pool.stats()
assert (stats.size, stats.used, stats.leaks, stats.closed) == (3, 1, 0, {{}}), stats
print("whole")
""",
        max_size=3,
    )
    assert outcome.lines == ["whole"], outcome.errors
    assert_clean_end(outcome, primary)


def test_multiprocessing_workers_work_side_by_side(primary):
    outcome = run_script(
        primary,
        """
        import multiprocessing, warnings
        warnings.filterwarnings("ignore", "This process", DeprecationWarning)

        def work(number):
            pids = {pid() for _ in range(50)}
            connection.close()
            return pids.pop() if len(pids) == 1 else 0

        mine = pid()
        with multiprocessing.get_context("fork").Pool(4) as workers:
            theirs = workers.map(work, range(40))
        assert 0 not in theirs
        assert mine not in theirs
        assert pid() == mine
        print(len(set(theirs)) <= 4)
        """,
        max_size=2,
    )
    assert outcome.lines == ["True"], outcome.errors
    assert_clean_end(outcome, primary)

"""However a lease ends on which a statement was left half way: the server does not go on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from django_poolkit.pools.postgres import ConnectionPool
from django_poolkit.testing.waiting import wait_until
from tests.pools.support import assert_adds_up

ROOT = Path(__file__).parents[3]
STATEMENT = b"SELECT pg_sleep(60)"
# Its lease is dropped as the interpreter ends, when no thread can begin any more.
SCRIPT = """
import json, os
from django_poolkit.pools.postgres import ConnectionPool
pool = ConnectionPool(kwargs=json.loads(os.environ["POOL_PARAMS"]))
lease = pool.acquire()
lease.connection.cursor().execute("SELECT 1")
lease.connection.pgconn.send_query(b"SELECT pg_sleep(2)")
lease.connection.pgconn.flush()
pool.close()
"""


def begin(connection: Any) -> None:
    """Leave a statement as whoever is thrown out of it by a signal does: sent, and not read."""
    connection.cursor().execute("SELECT 1")
    connection.pgconn.send_query(STATEMENT)
    connection.pgconn.flush()


def running(primary, app) -> int:
    where = f"state = 'active' AND application_name = '{app}' AND query LIKE '%pg_sleep(60)%'"
    return int(primary.execute(f"SELECT count(*) FROM pg_stat_activity WHERE {where}")[0][0])


def leave_running(pool: ConnectionPool, is_running: Callable[[], bool]) -> Any:
    lease = pool.acquire()
    lease.connection.autocommit = True
    begin(lease.connection)
    wait_until(is_running)
    return lease


def release(pool: ConnectionPool, lease: Any) -> None:
    lease.release()


def release_by_another_thread(pool: ConnectionPool, lease: Any) -> None:
    thread = threading.Thread(target=lease.release)
    thread.start()
    thread.join()


def discard(pool: ConnectionPool, lease: Any) -> None:
    lease.discard()


def close(pool: ConnectionPool, lease: Any) -> None:
    lease.connection.close()
    lease.release()


def close_the_pool(pool: ConnectionPool, lease: Any) -> None:
    pool.close()
    lease.release()


@pytest.mark.parametrize(
    "end", [release, release_by_another_thread, discard, close, close_the_pool]
)
def test_what_is_left_half_way_ends_on_the_server(make_pool, primary, app, end):
    pool = make_pool(max_size=1, kwargs={"application_name": app})
    lease = leave_running(pool, lambda: running(primary, app) == 1)
    end(pool, lease)
    wait_until(lambda: running(primary, app) == 0)
    assert_adds_up(pool, primary, app)


@pytest.mark.parametrize("closed", [False, True], ids=["open", "closed"])
def test_so_does_that_of_a_lease_that_is_dropped(make_pool, primary, app, closed):
    pool = make_pool(max_size=1, kwargs={"application_name": app})
    lease = leave_running(pool, lambda: running(primary, app) == 1)
    if closed:
        pool.close()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        del lease
        passer_by = threading.Thread(target=pool.adopt_orphans)
        passer_by.start()
        passer_by.join()
    wait_until(lambda: running(primary, app) == 0)
    assert_adds_up(pool, primary, app)


@pytest.mark.core
def test_a_process_that_ends_with_such_a_lease_ends(params):
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=os.environ | {"POOL_PARAMS": json.dumps(params), "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr

"""Is it alive? A free look, a bounded question, and what may wait on a socket."""

from __future__ import annotations

import struct
import time
from unittest.mock import Mock

import psycopg
import pytest

from django_poolkit.pools.postgres import probe
from django_poolkit.pools.postgres.probe import State
from django_poolkit.testing.waiting import wait_until
from tests.pools.support import fill, wait_for_the_end

pytestmark = pytest.mark.core


@pytest.fixture
def idle(make_pool):
    """One idle connection, in the pool's hands."""
    pool = make_pool(max_size=1)
    fill(pool, 1)
    return pool._pool[0]


def look(connection, bypass=60.0, timeout=2.0):
    return probe.look(connection, bypass=bypass, timeout=timeout)


def readable(connection):
    wait_until(lambda: not probe.quiet(connection), message="nothing arrives")


def test_a_living_connection_is_quiet(idle):
    assert probe.quiet(idle)
    assert look(idle) is State.ALIVE


def test_a_killed_one_is_found_without_a_question(idle, primary, monkeypatch):
    ask = Mock(wraps=probe.execute)
    monkeypatch.setattr(probe, "execute", ask)
    primary.kill_backend(idle.info.backend_pid)
    wait_for_the_end(idle)
    assert look(idle) is State.DEAD
    assert ask.call_count == 0


def test_one_that_a_network_cut_is_found_without_a_question(far_pool, proxy, monkeypatch):
    pool = far_pool(max_size=1)
    fill(pool, 1)
    ask = Mock(wraps=probe.execute)
    monkeypatch.setattr(probe, "execute", ask)
    proxy.drop()
    connection = pool._pool[0]
    readable(connection)
    assert look(connection) is State.DEAD
    assert ask.call_count == 0


def test_one_that_was_closed_here_is_dead(idle):
    idle.close()
    assert look(idle) is State.DEAD


def test_a_notification_is_no_reason_to_drop_it(make_pool, primary, app):
    pool = make_pool(max_size=1)
    lease = pool.acquire()
    lease.connection.execute(f'LISTEN "{app}"')
    lease.connection.commit()
    primary.execute(f"NOTIFY \"{app}\", 'news'")
    readable(lease.connection)
    assert look(lease.connection) is State.ALIVE
    lease.release()
    assert pool.stats().closed == {}


def message(kind, body):
    """Return a message of the server: a letter, the length, and what it says."""
    return kind + struct.pack("!i", len(body) + 4) + body


NOTICE = message(b"N", b"SNOTICE\0VNOTICE\0C00000\0Mlate news\0\0")
PARAMETER = message(b"S", b"IntervalStyle\0iso_8601\0")


@pytest.mark.parametrize("unasked", [NOTICE, PARAMETER, NOTICE + PARAMETER], ids=repr)
def test_what_the_server_says_unasked_is_no_reason_to_drop_it(far_pool, proxy, unasked):
    pool = far_pool(max_size=1)
    [pid] = fill(pool, 1)
    connection = pool._pool[0]
    proxy.say(unasked)
    readable(connection)
    with pool.acquire() as acquired:
        assert acquired.info.backend_pid == pid
        expected = "iso_8601" if PARAMETER in unasked else "postgres"
        assert acquired.info.parameter_status("IntervalStyle") == expected
    assert pool.stats().closed == {}


def test_a_farewell_is_a_reason_to_drop_it(make_pool, primary, app):
    """With FATAL waiting, libpq itself still calls the connection good."""
    pool = make_pool(max_size=1)
    [pid] = fill(pool, 1)
    connection = pool._pool[0]
    primary.kill_backend(pid)
    readable(connection)
    assert connection.pgconn.transaction_status == psycopg.pq.TransactionStatus.IDLE
    with pool.acquire() as acquired:
        assert acquired.info.backend_pid != pid
    assert pool.stats().closed == {"dead": 1}


def test_within_the_bypass_window_nothing_is_sent(far_pool, proxy):
    pool = far_pool(max_size=1, bypass=60.0)
    fill(pool, 1)
    before = proxy.client_bytes
    for _ in range(5):
        pool.acquire().release()
    assert proxy.client_bytes == before


def test_after_the_bypass_window_one_question_is_sent(far_pool, proxy):
    pool = far_pool(max_size=1, bypass=0.05)
    fill(pool, 1)
    connection = pool._pool[0]
    before = proxy.client_bytes, proxy.round_trips
    wait_until(lambda: time.monotonic() - connection._used_at > 0.05)
    lease = pool.acquire()
    # An empty query: a letter, its length, and the end of an empty text.
    assert (proxy.client_bytes, proxy.round_trips) == (before[0] + 6, before[1] + 1)
    lease.release()
    pool.acquire().release()
    assert proxy.round_trips == before[1] + 1


def test_the_question_is_bounded(far_pool, proxy):
    pool = far_pool(max_size=1)
    fill(pool, 1)
    connection = pool._pool[0]
    proxy.stall()
    started = time.monotonic()
    assert look(connection, bypass=0.0, timeout=0.2) is State.SILENT
    assert 0.2 <= time.monotonic() - started < 0.6
    proxy.resume()


def test_one_in_the_middle_of_a_transaction_is_not_idle(make_pool):
    pool = make_pool(max_size=1)
    lease = pool.acquire()
    lease.connection.execute("SELECT 1")
    assert look(lease.connection, bypass=0.0) is State.DEAD
    lease.release()


def test_statements_run_below_the_cursors(idle):
    results = probe.execute(idle, b"SELECT 1; SELECT 'two'", 5.0)
    assert [result.get_value(0, 0) for result in results] == [b"1", b"two"]


def test_what_the_server_refuses_is_raised(idle):
    with pytest.raises(psycopg.errors.DivisionByZero):
        probe.execute(idle, b"SELECT 1; SELECT 1/0", 5.0)
    assert look(idle, bypass=0.0) is State.ALIVE

"""The way out of the pool: order, time, refusals, and the dead that are met on it."""

from __future__ import annotations

import gc
import re
import time
from typing import Any
from unittest.mock import Mock

import psycopg
import pytest

from django_poolkit.pools.errors import PoolError
from django_poolkit.pools.postgres import probe
from django_poolkit.pools.postgres.errors import PoolTimeout, TooManyWaiters
from django_poolkit.testing.waiting import wait_until
from tests.pools.support import (
    Call,
    assert_adds_up,
    fill,
    idle_pids,
    pid,
    queue_up,
    wait_for_the_end,
)


@pytest.mark.core
def test_the_connection_used_last_is_given_out_first(make_pool):
    pool = make_pool(max_size=4)
    pids = fill(pool, 4)
    with pool.acquire() as hot:
        assert hot.info.backend_pid == pids[-1]
    for _ in range(20):
        with pool.acquire() as connection:
            assert connection.info.backend_pid == pids[-1]
    assert idle_pids(pool) == pids


@pytest.mark.core
def test_an_acquire_opens_the_pool_and_connects_once(make_pool, primary, app):
    pool = make_pool(kwargs={"application_name": app})
    assert pool.stats().size == 0
    with pool.acquire() as connection:
        assert connection.execute("SELECT 42").fetchone() == (42,)
    assert pool.stats().connects == 1
    assert_adds_up(pool, primary, app)


@pytest.mark.core
class TestTimeout:
    def test_it_says_what_the_pool_looked_like(self, make_pool):
        pool = make_pool(max_size=2, name="orders")
        held = [pool.acquire(), pool.acquire()]
        other = queue_up(pool, pool.acquire)
        with pytest.raises(PoolTimeout) as caught:
            pool.acquire(timeout=0.1)
        error = caught.value
        assert re.fullmatch(
            r"pool 'orders': no connection within 0\.10 s "
            r"\(used 2/2, idle 0, waiters 1, oldest lease \d\.\d\d s\)",
            str(error),
        )
        assert error.pool == "orders"
        assert error.stats is not None
        assert error.stats.used == 2
        assert 0.1 <= error.waited < 0.3
        for lease in held:
            lease.release()
        other.result().release()

    def test_it_is_counted(self, make_pool):
        pool = make_pool(max_size=1, timeout=0.05)
        with pool.acquire(timeout=10.0):
            for _ in range(3):
                with pytest.raises(PoolTimeout):
                    pool.acquire()
        assert (pool.stats().timeouts, pool.stats().waiters) == (3, 0)

    def test_a_wait_that_ends_well_is_measured(self, make_pool):
        pool = make_pool(max_size=1)
        held = pool.acquire()
        call = queue_up(pool, pool.acquire)
        before = pool.stats().wait
        held.release()
        call.result().release()
        after = pool.stats().wait
        assert (after.count - before.count, pool.stats().waited) == (1, 2)
        assert after.sum > before.sum

    def test_the_oldest_waiter_is_shown_and_gone_with_the_queue(self, make_pool):
        pool = make_pool(max_size=1)
        held = pool.acquire()
        call = queue_up(pool, pool.acquire)
        wait_until(lambda: pool.stats().oldest_waiter > 0.02)
        held.release()
        call.result().release()
        assert pool.stats().oldest_waiter == 0.0


@pytest.mark.core
def test_a_full_queue_refuses_at_once_and_counts(make_pool):
    pool = make_pool(max_size=1, max_waiting=3, name="orders")
    held = pool.acquire()
    calls = [queue_up(pool, lambda: pool.acquire().release()) for _ in range(3)]
    started = time.monotonic()
    with pytest.raises(TooManyWaiters, match="pool 'orders': 3 are waiting already") as caught:
        pool.acquire(timeout=30.0)
    assert time.monotonic() - started < 1.0
    assert caught.value.stats is not None
    assert caught.value.stats.waiters == 3
    assert (pool.stats().too_many_waiters, pool.stats().timeouts) == (1, 0)
    held.release()
    for call in calls:
        call.result()
    pool.acquire().release()


class TestDeadConnections:
    @pytest.mark.core
    def test_a_lone_client_gets_a_fresh_one_without_a_pause(
        self, make_pool, primary, app, monkeypatch
    ):
        pool = make_pool(max_size=8, kwargs={"application_name": app})
        dead = fill(pool, 8)
        assert primary.kill_backends(app) == 8
        for connection in pool._pool:
            wait_for_the_end(connection)
        close = Mock(wraps=pool._close_connection)
        monkeypatch.setattr(pool, "_close_connection", close)
        monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail(f"slept for {seconds} s"))
        pings = []
        monkeypatch.setattr(probe, "execute", lambda *args: pings.append(args))
        lease = pool.acquire()
        monkeypatch.undo()
        assert pings == []  # the socket shows it: nothing is sent to a dead server
        assert pid(lease) not in dead
        assert lease.connection.execute("SELECT 1").fetchone() == (1,)
        lease.release()
        closed = [call.args[0] for call in close.call_args_list]
        assert len(closed) == len(set(closed)) == 8
        stats = pool.stats()
        assert stats.closed == {"dead": 8}
        assert stats.connects - 8 == 1
        assert stats.acquired == 9
        assert_adds_up(pool, primary, app)

    @pytest.mark.core
    def test_the_living_are_kept(self, make_pool, primary, app):
        pool = make_pool(max_size=4, kwargs={"application_name": app})
        pids = fill(pool, 4)
        for dead in (pids[3], pids[1]):
            primary.kill_backend(dead)
        with pool.acquire() as connection:
            assert connection.info.backend_pid == pids[2]
        assert idle_pids(pool) == [pids[0], pids[2]]
        assert pool.stats().connects == 4

    def test_16_clients_meet_8_dead_without_an_error(self, make_pool, primary, app):
        pool = make_pool(max_size=8, kwargs={"application_name": app})
        fill(pool, 8)
        primary.kill_backends(app)

        def query():
            with pool.acquire() as connection:
                return connection.execute("SELECT 1").fetchone()

        calls = [Call(query) for _ in range(16)]
        assert [call.result() for call in calls] == [(1,)] * 16
        assert pool.stats().closed == {"dead": 8}
        assert_adds_up(pool, primary, app)

    def test_20_queries_fail_0_times(self, make_pool, primary, app):
        pool = make_pool(max_size=8, kwargs={"application_name": app})
        fill(pool, 8)
        primary.kill_backends(app)
        for _ in range(20):
            with pool.acquire() as connection:
                connection.execute("SELECT 1")

    @pytest.mark.core
    def test_one_that_dies_in_use_costs_its_own_caller_one_error(self, make_pool, primary):
        pool = make_pool(max_size=1)
        with pytest.raises(psycopg.OperationalError), pool.acquire() as connection:
            primary.kill_backend(connection.info.backend_pid)
            connection.execute("SELECT 1")
        assert pool.stats().closed == {"broken": 1}
        with pool.acquire() as connection:
            connection.execute("SELECT 1")

    def test_a_caller_without_time_is_served_by_a_living_one(self, make_pool, primary):
        pool = make_pool(max_size=2)
        alive, dead = fill(pool, 2)
        primary.kill_backend(dead)
        lease = pool.acquire(timeout=0)
        assert pid(lease) == alive
        lease.release()

    def test_who_met_a_dead_one_keeps_the_right_of_the_first(self, make_pool, primary):
        """Two die; who was served one of them goes back to the head of the queue."""
        pool = make_pool(max_size=1, bypass=0.0)
        held, served = pool.acquire(), []

        def take(number):
            with pool.acquire():
                served.append(number)

        real = probe.look
        met: list[Any] = []

        def dead_at_first(connection, **kwargs):
            if not met:
                met.append(connection)
                return probe.State.DEAD
            return real(connection, **kwargs)

        calls = [queue_up(pool, take, number) for number in range(3)]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(probe, "look", dead_at_first)
            held.release()
            for call in calls:
                call.result()
        assert served == [0, 1, 2]
        assert pool.stats().closed == {"dead": 1}


class TestSilentConnections:
    """The network swallows packets: no socket shows it, and only a bounded ping can tell."""

    @pytest.mark.core
    def test_one_failed_ping_condemns_all_that_are_as_old(self, far_pool, proxy, monkeypatch):
        pool = far_pool(max_size=4, bypass=0, probe_timeout=0.2)
        fill(pool, 4)
        ask = Mock(wraps=probe.execute)
        monkeypatch.setattr(probe, "execute", ask)
        proxy.stall()
        with pytest.raises(PoolTimeout):
            pool.acquire(timeout=0.4)
        assert pool.stats().closed == {"silent": 4}
        proxy.resume()
        # Of the four only one was asked.
        assert ask.call_count == 1
        pool.acquire().release()

    @pytest.mark.core
    @pytest.mark.parametrize("probe_timeout", [0.1, 30.0])
    def test_the_ping_takes_from_the_time_of_the_acquire(self, far_pool, proxy, probe_timeout):
        pool = far_pool(max_size=2, bypass=0, probe_timeout=probe_timeout)
        fill(pool, 2)
        proxy.stall()
        started = time.monotonic()
        with pytest.raises(PoolTimeout) as caught:
            pool.acquire(timeout=0.5)
        assert 0.5 <= time.monotonic() - started < 1.5
        assert 0.5 <= caught.value.waited < 1.5
        proxy.resume()

    def test_what_was_heard_of_later_is_kept(self, far_pool, proxy, monkeypatch):
        pool = far_pool(max_size=2, bypass=0)
        fill(pool, 2)
        older, newer = list(pool._pool)
        with pool._lock:  # the older one on top, so that it is met first
            pool._pool.rotate(1)
        real = probe.look

        def silent_if_old(connection, **kwargs):
            if connection is older:
                return probe.State.SILENT
            return real(connection, **kwargs)

        monkeypatch.setattr(probe, "look", silent_if_old)
        assert older._used_at < newer._used_at
        with pool.acquire() as connection:
            assert connection is newer
        assert pool.stats().closed == {"silent": 1}


@pytest.mark.core
class TestCheck:
    def test_it_sees_each_connection_that_is_given_out(self, make_pool):
        seen: list[Any] = []
        pool = make_pool(max_size=1, check=seen.append)
        with pool.acquire() as connection:
            assert seen == [connection]
        with pool.acquire():
            assert seen == [connection] * 2

    def test_one_that_fails_it_is_replaced(self, make_pool):
        refused: list[int] = []

        def check(connection):
            if not refused:
                refused.append(connection.info.backend_pid)
                raise ValueError("not this one")

        pool = make_pool(max_size=1, check=check)
        with pool.acquire() as connection:
            assert connection.info.backend_pid != refused[0]
        assert pool.stats().closed == {"check_failed": 1}

    def test_an_interrupt_in_it_loses_no_slot(self, make_pool):
        def check(connection):
            raise KeyboardInterrupt

        pool = make_pool(max_size=1, check=check)
        for _ in range(3):
            with pytest.raises(KeyboardInterrupt):
                pool.acquire(timeout=2.0)
        assert (pool.stats().used, pool.stats().closed) == (0, {"discarded": 3})


@pytest.mark.core
def test_an_interrupt_in_the_middle_of_an_entry_shows_as_itself(make_pool, monkeypatch):
    pool = make_pool(max_size=1)

    class Half(dict[int, Any]):
        def __setitem__(self, key, value):
            raise KeyboardInterrupt

    pool.acquire().release()
    monkeypatch.setattr(pool._ledger, "live", Half())
    with pytest.raises(KeyboardInterrupt):
        pool.acquire(timeout=1.0)
    monkeypatch.undo()
    pool.acquire(timeout=2.0).release()


@pytest.mark.core
class TestBlocks:
    def test_a_block_commits(self, make_pool, primary, app):
        pool = make_pool()
        table = app.replace("-", "_")
        with pool.lease() as connection:
            connection.execute(f"CREATE TABLE {table} (a int)")
        assert primary.execute(f"SELECT * FROM {table}") == []
        primary.execute(f"DROP TABLE {table}")
        assert pool.stats().used == 0

    def test_a_block_that_fails_rolls_back(self, make_pool, primary, app):
        pool = make_pool()
        table = app.replace("-", "_")
        with pytest.raises(KeyError), pool.connection() as connection:
            connection.execute(f"CREATE TABLE {table} (a int)")
            raise KeyError
        assert primary.execute("SELECT to_regclass(%s)", (table,)) == [(None,)]
        assert (pool.stats().used, pool.stats().idle) == (0, 1)

    @pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
    def test_whatever_ends_it_the_connection_comes_home(self, make_pool, error):
        pool = make_pool(max_size=1)
        with pytest.raises(error), pool.lease():
            raise error
        assert (pool.stats().used, pool.stats().idle) == (0, 1)


@pytest.mark.core
class TestGetconn:
    def test_it_is_given_back(self, make_pool):
        pool = make_pool(max_size=1)
        connection = pool.getconn()
        assert pool.stats().used == 1
        pool.putconn(connection)
        assert (pool.stats().used, pool.stats().idle) == (0, 1)
        assert pool.getconn() is connection
        pool.putconn(connection)

    def test_it_takes_a_timeout(self, make_pool):
        pool = make_pool(max_size=1)
        connection = pool.getconn()
        with pytest.raises(PoolTimeout):
            pool.getconn(timeout=0.01)
        pool.putconn(connection)

    def test_twice_is_refused(self, make_pool):
        pool = make_pool(max_size=1)
        connection = pool.getconn()
        pool.putconn(connection)
        with pytest.raises(ValueError, match="can't return connection to pool"):
            pool.putconn(connection)
        assert pool.stats().idle == 1

    def test_the_wrong_pool_is_refused(self, make_pool):
        pool, other = make_pool(name="this"), make_pool(name="that")
        connection = pool.getconn()
        with pytest.raises(ValueError, match="'that', it comes from pool 'this'"):
            other.putconn(connection)
        assert pool.stats().used == 1
        pool.putconn(connection)

    def test_a_foreign_connection_is_refused(self, make_pool, params):
        pool = make_pool()
        with psycopg.connect(**params) as foreign:
            with pytest.raises(ValueError, match="it doesn't come from any pool"):
                pool.putconn(foreign)
            assert not foreign.closed

    def test_one_that_is_dropped_frees_its_slot_at_once(self, make_pool, primary, app):
        pool = make_pool(max_size=1, kwargs={"application_name": app})
        connection = pool.getconn()
        del connection
        with pytest.warns(match="a lease was dropped without being released"):
            lease = pool.acquire(timeout=2.0)
        lease.release()
        assert pool.stats().closed == {"lost": 1}
        assert_adds_up(pool, primary, app)

    @pytest.mark.filterwarnings("ignore::django_poolkit.pools.errors.PoolWarning")
    def test_one_that_is_dropped_serves_a_waiter_at_once(self, make_pool):
        pool = make_pool(max_size=1)
        box = [pool.getconn()]
        call = queue_up(pool, pool.acquire)
        box.clear()
        call.result(2.0).release()

    def test_a_release_through_its_lease_is_seen(self, make_pool):
        pool = make_pool(max_size=1)
        connection = pool.getconn()
        assert len(pool.leases()) == 1
        assert pool.leases()[0].backend_pid == connection.info.backend_pid
        pool.putconn(connection)


@pytest.mark.core
def test_a_finalizer_cannot_wait_inside_the_pool(make_pool, monkeypatch):
    """It would wait for what its own thread is about to give back."""
    pool = make_pool(max_size=2)
    said = []

    class Trap:
        def __del__(self):
            try:
                pool.acquire(timeout=5.0)
            except PoolError as error:
                said.append(str(error))

    class CollectsMeanwhile(dict[Any, Any]):
        def __setitem__(self, *entry: Any) -> None:  # under the lock, as a lease is lent
            circle: list[Any] = [Trap()]
            circle.append(circle)
            del circle
            gc.collect()
            super().__setitem__(*entry)

    monkeypatch.setattr(pool._ledger, "live", CollectsMeanwhile())
    lease = pool.acquire()
    assert len(said) == 1
    assert "finalizers cannot wait" in said[0]
    lease.release()
    assert (pool.stats().used, pool.stats().idle) == (0, 1)

"""The way home: given back, thrown away, dropped, or given back by a finalizer."""

from __future__ import annotations

import gc
import threading
import time
import warnings
from typing import Any

import pytest

from django_poolkit.pools.errors import PoolWarning
from django_poolkit.pools.postgres.errors import LeaseReleased, PoolTimeout
from django_poolkit.pools.stats import Histogram
from django_poolkit.testing.waiting import wait_until
from tests.pools.support import (
    Call,
    assert_adds_up,
    fill,
    pid,
    queue_up,
)

pytestmark = pytest.mark.core


class TestRelease:
    def test_who_waits_for_what_comes_home_in_another_thread_is_no_deadlock(self, make_pool):
        began, go = threading.Event(), threading.Event()

        def reset(connection: Any) -> None:
            began.set()
            assert go.wait(10.0)

        def let_it_go_when_somebody_waits() -> None:
            try:
                wait_until(lambda: pool.stats().waiters == 1)
            finally:
                go.set()

        pool = make_pool(max_size=1, timeout=30.0, reset=reset)
        lease = pool.acquire()
        lease.in_block = True  # so that it is its holder's alone
        home = Call(lease.release)
        assert began.wait(10.0)
        watcher = Call(let_it_go_when_somebody_waits)
        pool.acquire().release()
        watcher.result(10.0)
        home.result(10.0)
        stats = pool.stats()
        assert (stats.idle, stats.used, stats.waiters, stats.timeouts) == (1, 0, 0, 0)

    def test_the_connection_becomes_idle(self, make_pool):
        pool = make_pool(max_size=1)
        lease = pool.acquire()
        connection = lease.connection
        lease.release()
        pool.collect()
        assert list(pool._pool) == [connection]
        assert lease.released
        assert lease.connection is None
        assert pool.stats().use.count == 1

    @pytest.mark.parametrize("again", ["release", "discard"])
    @pytest.mark.parametrize("first", ["release", "discard"])
    def test_twice_is_refused(self, make_pool, first, again):
        pool = make_pool(max_size=1)
        lease = pool.acquire()
        getattr(lease, first)()
        with pytest.raises(LeaseReleased, match=f"pool '{pool.name}'"):
            getattr(lease, again)()
        assert pool.stats().used == 0
        assert pool.stats().size == pool.stats().idle <= 1

    def test_twice_does_not_touch_the_next_lease(self, make_pool):
        pool = make_pool(max_size=1)
        old = pool.acquire()
        old.release()
        new = pool.acquire()
        with pytest.raises(LeaseReleased):
            old.release()
        assert (pool.stats().used, pool.stats().idle) == (1, 0)
        assert new.connection.execute("SELECT 1").fetchone() == (1,)
        new.release()

    def test_the_first_waiter_gets_it(self, make_pool):
        pool = make_pool(max_size=1)
        lease = pool.acquire()
        waiter = queue_up(pool, pool.acquire)
        expected = pid(lease)
        lease.release()
        next_lease = waiter.result(1.0)
        assert pid(next_lease) == expected
        next_lease.release()

    def test_a_clean_one_sends_nothing(self, far_pool, proxy):
        pool = far_pool(max_size=1)
        lease = pool.acquire()
        lease.connection.execute("SELECT 1")
        lease.connection.commit()
        before = proxy.client_bytes
        lease.release()
        assert proxy.client_bytes == before

    def test_what_is_above_the_maximum_by_then_is_closed(self, make_pool, primary, app):
        pool = make_pool(max_size=3, kwargs={"application_name": app})
        leases = [pool.acquire() for _ in range(3)]
        pool.resize(0, 1)
        for lease in leases:
            lease.connection.execute("SELECT 1")  # in use, and so not cut
            lease.release()
        assert pool.stats().closed == {"resized": 2}
        assert pool.stats().size == 1
        assert_adds_up(pool, primary, app)

    def test_what_is_too_old_by_then_is_closed(self, make_pool, primary, app):
        pool = make_pool(max_size=1, max_lifetime=0.2, kwargs={"application_name": app})
        lease = pool.acquire()
        connection = lease.connection
        wait_until(lambda: time.monotonic() > connection._expire_at + 0.1)
        connection.execute("SELECT 1")
        lease.release()
        assert connection.closed
        assert pool.stats().closed == {"max_lifetime": 1}
        assert_adds_up(pool, primary, app)


class TestDiscard:
    def test_the_connection_is_closed_and_its_slot_free(self, make_pool, primary, app):
        pool = make_pool(max_size=1, kwargs={"application_name": app})
        lease = pool.acquire()
        connection = lease.connection
        lease.discard()
        assert connection.closed
        assert pool.stats().closed == {"discarded": 1}
        assert_adds_up(pool, primary, app)
        pool.acquire().release()

    def test_a_waiter_gets_a_new_one(self, make_pool):
        pool = make_pool(max_size=1)
        lease = pool.acquire()
        old = pid(lease)
        waiter = queue_up(pool, pool.acquire)
        lease.discard()
        next_lease = waiter.result()
        assert pid(next_lease) != old
        next_lease.release()


class TestDropped:
    def test_it_is_taken_back_with_the_stack_that_acquired_it(self, make_pool, primary, app):
        pool = make_pool(max_size=1, name="orders", kwargs={"application_name": app})

        def careless():
            return pid(pool.acquire())

        expected = careless()
        with pytest.warns(PoolWarning) as caught:
            lease = pool.acquire(timeout=1.0)
        assert pid(lease) == expected
        lease.release()
        [warning] = caught
        text = str(warning.message)
        assert text.startswith("pool 'orders': a lease was dropped without being released, after ")
        assert "in thread 'MainThread'" in text
        assert f"{__file__}:" in text
        assert "careless" in text
        assert "django_poolkit/pools" not in text
        assert pool.stats().leaks == 1
        assert_adds_up(pool, primary, app)

    def test_the_observer_hears_of_it(self, make_pool):
        pool = make_pool(max_size=1)
        heard = []
        pool.events.subscribe(lambda event, facts: heard.append((event, facts)))
        pool.acquire()
        with pytest.warns(PoolWarning):
            pool.acquire().release()
        [facts] = [facts for event, facts in heard if event == "lease_leaked"]
        assert (facts["pool"], facts["kind"], facts["where"]) == (pool.name, "dropped", None)
        assert any("test_the_observer_hears_of_it" in line for line in facts["stack"])

    def test_a_warning_that_is_an_error_loses_no_slot(self, make_pool):
        pool = make_pool(max_size=1)
        pool.acquire()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(PoolWarning):
                pool.acquire(timeout=1.0)
        assert (pool.stats().used, pool.stats().idle) == (0, 1)
        pool.acquire(timeout=0).release()

    def test_one_that_is_dirty_and_in_a_transaction_is_cleaned(self, make_pool):
        pool = make_pool(max_size=1)

        def careless():
            lease = pool.acquire()
            lease.connection.execute("SET search_path TO nowhere")
            return pid(lease)

        expected = careless()
        with pytest.warns(PoolWarning):
            lease = pool.acquire(timeout=1.0)
        assert pid(lease) == expected
        assert lease.connection.execute("SHOW search_path").fetchone() == ('"$user", public',)
        lease.release()
        assert pool.stats().resets == 1

    def test_it_serves_one_who_waits_already(self, make_pool):
        pool = make_pool(max_size=1)
        box = [pool.acquire()]

        def wait():
            with pytest.warns(PoolWarning):
                return pool.acquire()

        waiter = queue_up(pool, wait)
        box.clear()
        waiter.result(2.0).release()

    def test_the_housekeeper_finds_it_where_nobody_acquires(self, make_pool, recwarn):
        warnings.simplefilter("always")
        pool = make_pool(max_size=1, max_idle=0.4)
        pool.acquire()
        wait_until(lambda: pool.stats().leaks == 1)
        wait_until(lambda: pool.stats().used == 0)

    def test_one_in_a_reference_cycle_is_counted_once(self, make_pool, primary, app):
        pool = make_pool(max_size=1, kwargs={"application_name": app})
        circle: list[Any] = [pool.acquire()]
        circle.append(circle)
        expected = pid(circle[0])
        del circle
        gc.collect()
        pool.look_after_waiters()  # who passes here does not take it back
        stats = pool.stats()
        assert (stats.used, stats.leaks) == (1, 0)
        with pytest.warns(PoolWarning):
            lease = pool.acquire(timeout=0)
        assert pid(lease) == expected
        lease.release()
        assert (pool.stats().leaks, pool.stats().closed) == (1, {})
        assert_adds_up(pool, primary, app)

    def test_one_whose_finalizer_is_yet_to_run_is_counted_once(self, make_pool, primary, app):
        class PasserBy:
            def __del__(self) -> None:
                pool.look_after_waiters()  # between two finalizers, as any thread may

        pool = make_pool(max_size=1, kwargs={"application_name": app})
        gc.collect()
        circle: list[Any] = [PasserBy(), pool.acquire()]
        circle.append(circle)
        del circle
        gc.collect()
        assert (pool.stats().leaks, pool.stats().closed) == (1, {"lost": 1})
        with pytest.warns(PoolWarning):
            pool.adopt_orphans()
        stats = pool.stats()
        assert (stats.leaks, stats.closed, stats.size) == (1, {"lost": 1}, 0)
        assert_adds_up(pool, primary, app)

    def test_one_in_a_reference_cycle_is_found_by_the_collector(self, make_pool):
        pool = make_pool(max_size=1)
        circle: list[Any] = [pool.acquire()]
        circle.append(circle)
        del circle
        with pytest.raises(PoolTimeout):
            pool.acquire(timeout=0)
        gc.collect()
        with pytest.warns(PoolWarning):
            pool.acquire(timeout=1.0).release()

    def test_one_that_a_thread_took_to_its_end(self, make_pool):
        pool = make_pool(max_size=1)
        local = threading.local()

        def work():
            local.lease = pool.acquire()

        Call(work).result()
        with pytest.warns(PoolWarning, match="in thread 'Thread-"):
            pool.acquire(timeout=1.0).release()

    def test_its_connection_is_refused_from_then_on(self, make_pool):
        """Also before it has been taken back: it is the next one's already."""
        pool = make_pool(max_size=1)
        connection = pool.acquire().connection
        with pytest.raises(LeaseReleased, match="has been dropped: hold it"):
            connection.execute("SELECT 1")
        with pytest.warns(PoolWarning):
            pool.acquire().release()

    def test_one_that_an_interrupt_struck_out_of_the_ledger_hurts_nobody_else(
        self, make_pool, primary, app, monkeypatch
    ):
        pool = make_pool(max_size=1, kwargs={"application_name": app})
        lease = pool.acquire()

        class Interrupted(Histogram):
            def observe(self, seconds):
                raise KeyboardInterrupt

        lease.listed = True  # so that it does not stay at hand, but ends at once
        # It has been struck out by then, by whichever way it is released.
        monkeypatch.setattr(pool._ledger, "use", Interrupted())
        with pytest.raises(KeyboardInterrupt):
            lease.release()
        monkeypatch.undo()
        del lease
        with pytest.warns(PoolWarning):
            pool.acquire(timeout=2.0).release()
        assert pool.stats().closed == {"interrupted": 1}
        assert_adds_up(pool, primary, app)

    def test_an_interrupt_of_the_one_who_takes_it_back_loses_no_slot(self, make_pool, monkeypatch):
        pool = make_pool(max_size=1)
        pool.acquire()

        def interrupted(lease):
            raise KeyboardInterrupt

        monkeypatch.setattr(pool, "release", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pool.acquire(timeout=1.0)
        monkeypatch.undo()
        with pytest.warns(PoolWarning):
            pool.acquire(timeout=1.0).release()
        assert (pool.stats().used, pool.stats().idle) == (0, 1)

    def test_a_cursor_keeps_its_lease(self, make_pool):
        pool = make_pool(max_size=1)

        def open_cursor():
            lease = pool.acquire()
            return lease.connection.execute("SELECT 1")

        cursor = open_cursor()
        with pytest.raises(PoolTimeout):
            pool.acquire(timeout=0)
        assert cursor.fetchone() == (1,)
        del cursor
        with pytest.warns(PoolWarning):
            pool.acquire(timeout=1.0).release()


class Inside:
    """Runs `act` once, in a finalizer, in the middle of the pool's critical section."""

    def __init__(self, pool, monkeypatch, act):
        self.ran = 0
        outer = self

        class Trap:
            def __del__(self):
                outer.ran += 1
                act()

        class Half(Histogram):
            def observe(self, seconds):
                if not outer.ran:
                    circle: list[Any] = [Trap()]
                    circle.append(circle)
                    del circle
                    gc.collect()
                super().observe(seconds)

        # Every way home passes here, with the lease struck out and its connection not yet idle.
        monkeypatch.setattr(pool._ledger, "use", Half())


class TestFinalizersInside:
    @pytest.mark.parametrize("verb", ["release", "discard"])
    def test_a_finalizer_gives_back_inside_the_critical_section(
        self, make_pool, primary, app, monkeypatch, verb
    ):
        pool = make_pool(max_size=2, kwargs={"application_name": app})
        one, two = pool.acquire(), pool.acquire()
        inside = Inside(pool, monkeypatch, lambda: getattr(two, verb)())
        Call(one.release).result(5.0)
        assert inside.ran == 1
        assert (pool.stats().used, pool.stats().idle) == (1, 1)
        # Whoever passes next carries it out, and that once.
        pool.acquire().release()
        assert two.released
        assert pool.stats().idle == (2 if verb == "release" else 1)
        assert_adds_up(pool, primary, app)
        with pytest.raises(LeaseReleased):
            two.release()

    def test_a_lease_dies_inside_the_critical_section(self, make_pool, primary, app, monkeypatch):
        pool = make_pool(max_size=2, kwargs={"application_name": app})
        one, box = pool.acquire(), [pool.acquire()]
        inside = Inside(pool, monkeypatch, box.clear)
        Call(one.release).result(5.0)
        assert inside.ran == 1
        with pytest.warns(PoolWarning):
            pool.acquire().release()
        assert (pool.stats().used, pool.stats().idle, pool.stats().leaks) == (0, 2, 1)
        assert_adds_up(pool, primary, app)

    def test_a_finalizer_gives_back_twice(self, make_pool, monkeypatch):
        pool = make_pool(max_size=2)
        one, two = pool.acquire(), pool.acquire()
        Inside(pool, monkeypatch, lambda: (two.release(), two.release()))
        Call(one.release).result(5.0)
        pool.acquire().release()
        assert (pool.stats().used, pool.stats().idle) == (0, 2)

    def test_a_finalizer_looks_at_the_pool(self, make_pool, monkeypatch):
        pool = make_pool(max_size=2)
        one = pool.acquire()
        seen: list[Any] = []
        Inside(pool, monkeypatch, lambda: seen.append(pool.stats()))
        Call(one.release).result(5.0)
        assert len(seen) == 1
        assert pool.stats().idle == 1

    def test_a_finalizer_in_another_thread_just_gives_back(self, make_pool):
        pool = make_pool(max_size=2)
        one, two = pool.acquire(), pool.acquire()
        with pool._lock:
            other = Call(two.release)
        other.result()
        one.release()
        assert pool.stats().idle == 2


class TestClosedPool:
    def test_what_is_leased_is_closed_as_it_comes_home(self, make_pool, primary, app):
        pool = make_pool(max_size=2, kwargs={"application_name": app})
        lease, connection = pool.acquire(), pool.getconn()
        pool.close()
        assert lease.connection.execute("SELECT 1").fetchone() == (1,)
        lease.release()
        pool.putconn(connection)
        assert connection.closed
        assert pool.stats().closed == {"pool_closed": 2}
        assert_adds_up(pool, primary, app)

    def test_what_is_dropped_is_closed_too(self, make_pool, primary, app, recwarn):
        warnings.simplefilter("always")
        pool = make_pool(max_size=2, kwargs={"application_name": app})
        lease, connection = pool.acquire(), pool.getconn()
        pool.close()
        del lease, connection
        wait_until(lambda: not primary.sessions(app), 3.0, "a session outlives its pool")

    def test_what_was_left_to_a_worker_is_closed_too(self, make_pool, primary, app):
        gate, hold = threading.Event(), threading.Event()
        gate.set()

        def configure(connection):
            hold.set()
            assert gate.wait(30.0)

        where = {"application_name": app}
        pool = make_pool(max_size=3, num_workers=1, configure=configure, kwargs=where)
        lost, kept = pool.acquire(), pool.acquire()
        lost.connection.execute("BEGIN")
        gate.clear()
        hold.clear()
        waiting = queue_up(pool, pool.acquire)
        try:
            assert hold.wait(10.0)
            kept.release()
            waiting.result().release()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", PoolWarning)
                del lost
                pool.acquire().release()  # sees the lost one, and has no time for it
            assert pool.stats().used == 1
            pool.close(timeout=0.1)
            assert pool.stats().used == 0
        finally:
            gate.set()
        wait_until(lambda: not primary.sessions(app), 3.0, "a session outlives its pool")


class TestCallback:
    def test_it_runs_on_each_return(self, make_pool):
        seen: list[Any] = []
        pool = make_pool(max_size=1, reset=seen.append)
        with pool.acquire() as connection:
            assert seen == []
        assert seen == [connection]

    def test_it_may_run_statements(self, make_pool):
        def reset(connection):
            connection.execute("SET TIME ZONE 'Asia/Tokyo'")
            connection.commit()

        pool = make_pool(max_size=1, reset=reset)
        with pool.acquire():
            pass
        assert pool.stats().closed == {}
        with pool.acquire() as connection:
            assert connection.execute("SHOW TimeZone").fetchone() == ("Asia/Tokyo",)

    def test_one_that_fails_costs_the_connection(self, make_pool):
        def fail(connection):
            raise ValueError

        pool = make_pool(max_size=1, reset=fail)
        with pool.acquire():
            pass
        assert (pool.stats().size, pool.stats().closed) == (0, {"reset_failed": 1})

    def test_one_that_leaves_a_transaction_open_costs_the_connection(self, make_pool):
        pool = make_pool(max_size=1, reset=lambda connection: connection.execute("SELECT 1"))
        with pool.acquire():
            pass
        assert (pool.stats().size, pool.stats().closed) == (0, {"reset_failed": 1})

    def test_an_interrupt_in_it_loses_no_slot(self, make_pool):
        def interrupt(connection):
            raise KeyboardInterrupt

        pool = make_pool(max_size=1, reset=interrupt)
        for _ in range(2):
            lease = pool.acquire(timeout=2.0)
            with pytest.raises(KeyboardInterrupt):
                lease.release()
        assert (pool.stats().used, pool.stats().closed) == (0, {"interrupted": 2})


def test_leases_are_listed_with_their_holders(make_pool):
    pool = make_pool(max_size=2)
    lease = pool.acquire()
    other = Call(pool.acquire).result()
    first, second = pool.leases()
    assert (first.backend_pid, second.backend_pid) == (pid(lease), pid(other))
    assert first.thread == "MainThread"
    assert first.seconds >= second.seconds > 0
    assert "test_leases_are_listed_with_their_holders" in first.stack[0]
    lease.release()
    other.release()
    assert pool.leases() == []


def test_a_full_pool_comes_home_complete(make_pool, primary, app):
    pool = make_pool(max_size=5, kwargs={"application_name": app})
    assert len(set(fill(pool, 5))) == 5
    assert_adds_up(pool, primary, app)

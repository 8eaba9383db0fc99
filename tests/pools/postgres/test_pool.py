"""The verbs that steer a pool, and that its figures add up whatever is done to it."""

from __future__ import annotations

import random
import threading
import time
from contextlib import suppress

import psycopg
import pytest

from django_poolkit.pools.postgres.errors import PoolClosed, PoolPaused, PoolTimeout
from django_poolkit.testing.waiting import wait_until
from tests.pools.support import (
    Call,
    assert_adds_up,
    fill,
    idle_pids,
    pid,
    queue_up,
)


class Load:
    """Threads that acquire, query and release until they are told to stop."""

    def __init__(self, pool, threads=8):
        self.over = threading.Event()
        self.turns = 0
        self.pool = pool
        self.calls = [Call(self._work) for _ in range(threads)]

    def _work(self):
        while not self.over.is_set():
            with self.pool.acquire() as connection:
                connection.execute("SELECT 1")
            self.turns += 1

    def go_on(self, turns=100):
        """Wait until so many more turns have been taken."""
        goal = self.turns + turns
        wait_until(lambda: self.turns >= goal or not all(c.is_alive() for c in self.calls))

    def stop(self):
        """End the threads, and raise what any of them met."""
        self.over.set()
        for call in self.calls:
            call.result()


@pytest.fixture
def load():
    loads: list[Load] = []

    def start(pool, threads=8):
        loads.append(Load(pool, threads))
        return loads[-1]

    yield start
    for each in loads:
        each.over.set()


@pytest.mark.core
class TestPause:
    def test_nothing_is_given_out_until_it_is_resumed(self, make_pool):
        pool = make_pool(max_size=2)
        fill(pool, 2)
        pool.pause()
        assert pool.stats().state == "paused"
        assert 55.0 < pool.stats().pause_left <= 60.0
        calls = [queue_up(pool, pool.acquire) for _ in range(3)]
        assert pool.stats().used == 0
        pool.resume()
        assert (pool.stats().state, pool.stats().pause_left) == ("open", 0.0)
        first, second = calls[0].result(), calls[1].result()
        first.release()
        second.release()
        calls[2].result().release()

    def test_who_will_not_wait_is_told(self, make_pool):
        pool = make_pool(max_size=2, name="orders")
        fill(pool, 1)
        pool.pause()
        with pytest.raises(PoolPaused, match=r"'orders': paused, and not resumed within 0\.05"):
            pool.acquire(timeout=0.05)
        with pytest.raises(PoolPaused):
            pool.acquire(timeout=0)
        pool.resume()
        pool.acquire().release()

    def test_the_server_is_left_alone(self, make_pool, primary, app):
        pool = make_pool(min_size=2, max_size=2, kwargs={"application_name": app})
        fill(pool, 2)
        lease = pool.acquire()
        pool.pause()
        assert len(primary.sessions(app)) <= 2
        waiter = queue_up(pool, pool.acquire)
        lease.release()
        wait_until(lambda: primary.sessions(app) == [])
        assert (pool.stats().size, pool.stats().waiters) == (0, 1)
        assert pool.stats().closed == {"recycled": 2}
        pool.resume()
        waiter.result().release()
        wait_until(lambda: pool.stats().idle == 2)

    def test_a_connect_under_way_as_it_begins_is_not_kept(self, make_pool):
        gate, at = threading.Event(), threading.Event()

        def configure(connection):
            at.set()
            assert gate.wait(10.0)

        pool = make_pool(max_size=1, configure=configure)
        waiter = queue_up(pool, pool.acquire)
        assert at.wait(10.0)
        pool.pause()
        gate.set()
        wait_until(lambda: pool.stats().closed == {"recycled": 1})
        assert (pool.stats().size, pool.stats().waiters) == (0, 1)
        pool.resume()
        waiter.result().release()

    def test_one_that_is_told_to_opens_paused(self, make_pool):
        pool = make_pool(max_size=1)
        pool.events.before_open = (lambda pool: pool.open_paused(30.0),)
        with pytest.raises(PoolPaused):
            pool.acquire(timeout=0.05)
        assert (pool.stats().connects, pool.stats().state) == (0, "paused")
        pool.open_paused(60.0)  # too late: it is open, and an order of the past
        pool.resume()
        pool.acquire().release()

    def test_what_is_leased_goes_on_and_comes_home(self, make_pool):
        pool = make_pool(max_size=1)
        lease = pool.acquire()
        pool.pause()
        waiter = queue_up(pool, pool.acquire)
        assert lease.connection.execute("SELECT 1").fetchone() == (1,)
        lease.release()
        assert (pool.stats().size, pool.stats().waiters) == (0, 1)
        pool.resume()
        waiter.result().release()

    def test_it_connects_nowhere_for_those_who_wait(self, make_pool):
        pool = make_pool(max_size=1)
        pool.pause()
        waiter = queue_up(pool, pool.acquire)
        assert pool.stats().connecting == 0
        pool.resume()
        waiter.result().release()

    def test_it_ends_by_itself(self, make_pool):
        pool = make_pool(max_size=1)
        fill(pool, 1)
        started = time.monotonic()
        pool.pause(0.3)
        lease = pool.acquire(timeout=5.0)
        assert 0.3 <= time.monotonic() - started < 2.0
        assert pool.stats().state == "open"
        lease.release()

    def test_a_longer_one_replaces_a_shorter_one(self, make_pool):
        pool = make_pool(max_size=1)
        fill(pool, 1)
        pool.pause(0.1)
        pool.pause(0.6)
        with pytest.raises(PoolPaused):
            pool.acquire(timeout=0.3)
        pool.acquire(timeout=5.0).release()

    def test_a_restart_of_the_server_during_it_costs_no_error(self, make_pool, primary, app, load):
        pool = make_pool(max_size=4, timeout=30.0, kwargs={"application_name": app})
        running = load(pool)
        running.go_on()
        pool.pause()
        wait_until(lambda: pool.stats().used == 0)
        primary.kill_backends(app)
        pool.resume()
        running.go_on()
        running.stop()
        assert_adds_up(pool, primary, app)

    def test_closing_ends_it(self, make_pool):
        pool = make_pool(max_size=1)
        pool.pause()
        waiter = queue_up(pool, pool.acquire)
        pool.close()
        with pytest.raises(PoolClosed):
            waiter.result(2.0)
        assert pool.stats().state == "closed"

    @pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf")])
    def test_a_time_that_makes_no_sense_is_refused(self, make_pool, seconds):
        pool = make_pool(max_size=1)
        fill(pool, 1)
        with pytest.raises(ValueError, match="seconds"):
            pool.pause(seconds)
        pool.acquire(timeout=0).release()


@pytest.mark.core
class TestRecycle:
    @pytest.mark.parametrize("verb", ["recycle", "drain"])
    def test_the_idle_go_now_and_the_leased_as_they_come_home(self, make_pool, primary, app, verb):
        pool = make_pool(max_size=3, kwargs={"application_name": app})
        old = set(fill(pool, 3))
        lease = pool.acquire()
        getattr(pool, verb)()
        assert pool.stats().idle == 0
        assert lease.connection.execute("SELECT 1").fetchone() == (1,)
        lease.release()
        assert pool.stats().closed == {"recycled": 3}
        new = pool.acquire()
        assert pid(new) not in old
        new.release()
        assert_adds_up(pool, primary, app)

    def test_a_minimum_is_restored(self, make_pool):
        pool = make_pool(min_size=2, max_size=3)
        pool.open(wait=True, timeout=5.0)
        old = set(idle_pids(pool))
        pool.recycle()
        wait_until(lambda: pool.stats().idle == 2)
        assert not old & set(idle_pids(pool))

    def test_under_load_every_one_is_replaced_without_an_error(self, make_pool, primary, app, load):
        pool = make_pool(max_size=4, timeout=30.0, kwargs={"application_name": app})
        running = load(pool)
        running.go_on()
        for _ in range(3):
            old = {session.pid for session in primary.sessions(app)}
            pool.recycle()
            running.go_on()
            while old & {session.pid for session in primary.sessions(app)}:
                running.go_on(1)
        running.stop()
        assert_adds_up(pool, primary, app)


@pytest.mark.core
class TestResize:
    def test_down_under_load_cuts_nothing_in_use(self, make_pool, primary, app, load):
        pool = make_pool(max_size=10, timeout=30.0, kwargs={"application_name": app})
        running = load(pool, threads=10)
        wait_until(lambda: pool.stats().size >= 4)
        pool.resize(0, 2)
        wait_until(lambda: pool.stats().size <= 2)
        running.go_on()
        assert pool.stats().size <= 2
        running.stop()
        assert set(pool.stats().closed) == {"resized"}
        assert_adds_up(pool, primary, app)

    def test_up_serves_those_who_wait_at_once(self, make_pool):
        pool = make_pool(max_size=1)
        held = pool.acquire()
        calls = [queue_up(pool, pool.acquire) for _ in range(3)]
        pool.resize(0, 4)
        for call in calls:
            call.result(5.0).release()
        held.release()
        assert pool.stats().max_size == 4

    def test_a_new_minimum_is_filled(self, make_pool):
        pool = make_pool(max_size=4)
        fill(pool, 1)
        pool.resize(3, 4)
        wait_until(lambda: pool.stats().idle == 3)

    def test_the_longest_idle_go_first(self, make_pool):
        pool = make_pool(max_size=4)
        pids = fill(pool, 4)
        pool.resize(0, 2)
        assert idle_pids(pool) == pids[2:]

    def test_while_it_grows(self, make_pool, primary, app):
        gate = threading.Event()
        pool = make_pool(
            max_size=6, configure=lambda c: gate.wait(10.0), kwargs={"application_name": app}
        )
        calls = [queue_up(pool, lambda: pool.acquire().release()) for _ in range(6)]
        pool.resize(0, 1)
        gate.set()
        for call in calls:
            call.result()
        wait_until(lambda: not pool.stats().connecting)
        assert pool.stats().size <= 1
        assert_adds_up(pool, primary, app)

    @pytest.mark.parametrize("sizes", [(3, 2), (-1, 2), (0, 0), (0,)])
    def test_sizes_that_contradict_each_other_are_refused(self, make_pool, sizes):
        pool = make_pool(min_size=1, max_size=4)
        with pytest.raises(ValueError):
            pool.resize(*sizes)
        assert (pool.stats().min_size, pool.stats().max_size) == (1, 4)


@pytest.mark.core
class TestCheck:
    def test_the_dead_are_dropped_and_the_living_stay(self, make_pool, primary, app):
        pool = make_pool(max_size=4, kwargs={"application_name": app})
        pids = fill(pool, 4)
        primary.kill_backend(pids[0])
        primary.kill_backend(pids[2])
        pool.check()
        assert idle_pids(pool) == [pids[1], pids[3]]
        assert pool.stats().closed == {"dead": 2}
        assert_adds_up(pool, primary, app)

    def test_the_silent_are_dropped(self, far_pool, proxy):
        pool = far_pool(max_size=2, probe_timeout=0.2)
        fill(pool, 2)
        proxy.stall()
        pool.check()
        assert pool.stats().closed == {"silent": 2}
        proxy.resume()

    def test_a_minimum_is_restored(self, make_pool, primary, app):
        pool = make_pool(min_size=2, max_size=2, kwargs={"application_name": app})
        pool.open(wait=True, timeout=5.0)
        primary.kill_backends(app)
        pool.check()
        wait_until(lambda: pool.stats().idle == 2)
        assert_adds_up(pool, primary, app)

    def test_under_load(self, make_pool, primary, app, load):
        pool = make_pool(max_size=4, timeout=30.0, kwargs={"application_name": app})
        running = load(pool)
        for _ in range(10):
            pool.check()
            running.go_on(20)
        running.stop()
        assert pool.stats().closed == {}
        assert_adds_up(pool, primary, app)


@pytest.mark.core
class TestClose:
    def test_those_who_wait_are_told_at_once(self, make_pool):
        pool = make_pool(max_size=1, name="orders")
        lease = pool.acquire()
        calls = [queue_up(pool, pool.acquire) for _ in range(3)]
        pool.close()
        for call in calls:
            with pytest.raises(PoolClosed, match="pool 'orders' was closed while"):
                call.result(1.0)
        lease.release()
        assert pool.stats().closed == {"pool_closed": 1}

    def test_it_can_be_done_twice_and_by_many(self, make_pool, primary, app):
        pool = make_pool(max_size=2, kwargs={"application_name": app})
        fill(pool, 2)
        for call in [Call(pool.close) for _ in range(8)]:
            call.result()
        pool.close()
        assert pool.stats().closed == {"pool_closed": 2}
        assert_adds_up(pool, primary, app)

    def test_it_stays_closed(self, make_pool):
        pool = make_pool(max_size=1)
        pool.close()
        for use in (pool.acquire, pool.getconn, pool.open, pool.pause):
            with pytest.raises(PoolClosed):
                use()
        with pytest.raises(PoolClosed), pool.lease():
            pass
        assert pool.stats().state == "closed"
        for steer in (pool.recycle, pool.check, pool.resume):
            steer()
        pool.resize(0, 2)
        assert pool.stats().size == 0

    def test_a_connect_that_is_under_way_is_not_kept(self, make_pool, primary, app):
        gate, at = threading.Event(), threading.Event()

        def configure(connection):
            at.set()
            assert gate.wait(10.0)

        pool = make_pool(max_size=1, configure=configure, kwargs={"application_name": app})
        call = queue_up(pool, pool.acquire)
        assert at.wait(5.0)
        pool.close(timeout=0)
        with pytest.raises(PoolClosed):
            call.result(1.0)
        gate.set()
        wait_until(lambda: primary.sessions(app) == [])
        wait_until(lambda: pool.stats().closed == {"pool_closed": 1})

    def test_under_load_nothing_is_left(self, make_pool, primary, app, load):
        pool = make_pool(max_size=4, timeout=30.0, kwargs={"application_name": app})
        running = load(pool)
        running.go_on()
        pool.close()
        for call in running.calls:
            with pytest.raises(PoolClosed):
                call.result()
        assert pool.stats().size == 0
        assert_adds_up(pool, primary, app)

    def test_a_block_closes(self, make_pool):
        with make_pool(max_size=1) as pool:
            fill(pool, 1)
        assert pool.stats().state == "closed"

    def test_it_is_bounded_while_a_worker_hangs(self, make_pool, capfd):
        gate = threading.Event()
        pool = make_pool(max_size=1, configure=lambda c: gate.wait(10.0))
        call = queue_up(pool, pool.acquire)
        wait_until(lambda: pool._growth.pending(time.monotonic()) > 0)
        started = time.monotonic()
        pool.close(timeout=0.2)
        assert time.monotonic() - started < 2.0
        gate.set()
        with pytest.raises(PoolClosed):
            call.result()


@pytest.mark.core
def test_an_error_of_the_observer_is_its_own(make_pool):
    def observe(event, facts):
        raise ValueError

    pool = make_pool(max_size=1)
    pool.events.subscribe(observe)
    pool.acquire()
    with pytest.warns(match="a lease was dropped"):
        pool.acquire(timeout=2.0).release()
    assert (pool.stats().used, pool.stats().idle) == (0, 1)


def test_the_figures_add_up_whatever_happens(make_pool, primary, app):
    """Load, kills, steering and time-outs at once; then everything is quiet, and adds up."""
    pool = make_pool(max_size=6, timeout=10.0, kwargs={"application_name": app})
    over, dice = threading.Event(), random.Random(4711)

    def work(seed):
        own = random.Random(seed)
        turns = 0
        while not over.is_set():
            try:
                lease = pool.acquire(timeout=own.choice([0, 0.002, 5.0]))
            except PoolTimeout:
                continue
            turns += 1
            with suppress(psycopg.Error):  # killed, or divided by zero: both are meant
                lease.connection.execute(own.choice(["SELECT 1", "LISTEN a", "SELECT 1/0"]))
            own.choice([lease.release, lease.release, lease.release, lease.discard])()
        return turns

    calls = [Call(work, seed) for seed in range(12)]
    deadline = time.monotonic() + 4.0
    while time.monotonic() < deadline:
        dice.choice(
            [
                pool.recycle,
                pool.check,
                lambda: pool.resize(0, dice.randrange(1, 9)),
                lambda: pool.resize(2, 6),
                lambda: primary.kill_backends(app),
                lambda: (pool.pause(), pool.resume()),
            ]
        )()
        stats = pool.stats()
        assert stats.size == stats.idle + stats.used + stats.connecting
    pool.resize(0, 6)
    over.set()
    assert sum(call.result() for call in calls) == pool.stats().acquired
    assert pool.stats().used == 0
    assert_adds_up(pool, primary, app)
    leases = [pool.acquire() for _ in range(6)]
    assert_adds_up(pool, primary, app)
    for lease in leases:
        lease.release()
    assert pool.stats().leaks == 0

"""What lies at hand: a connection for the thread that used it last, and idle for everybody else."""

from __future__ import annotations

import gc
import os
import random
import threading
import time
import weakref
from typing import Any

import pytest

from django_poolkit.pools.errors import PoolWarning
from django_poolkit.pools.postgres import ConnectionPool, at_hand, release, reset
from django_poolkit.pools.postgres.errors import LeaseReleased, PoolTimeout
from django_poolkit.testing.waiting import wait_until
from tests.pools.support import Call, assert_adds_up, fill, idle_pids, queue_up

KWARGS = {"autocommit": True}


def laid_by(pool: ConnectionPool) -> Any:
    """Return a connection that lies at hand for this thread."""
    lease = pool.acquire()
    connection = lease.connection
    lease.release()
    assert list(pool._at_hand.values()) == [connection]
    return connection


def test_its_thread_has_it_again_without_the_lock(make_pool):
    pool = make_pool(max_size=2, stacks="none")
    held, over = threading.Event(), threading.Event()

    def hold() -> None:
        with pool._lock:
            held.set()
            over.wait(30.0)

    connection = laid_by(pool)
    other = Call(hold)
    assert held.wait(10.0)
    for _ in range(5):
        with pool.acquire() as again:
            assert again is connection
    over.set()
    other.result(10.0)
    assert pool.stats().acquired == 6


@pytest.mark.skipif(not at_hand._ALONE, reason="references are not counted exactly here")
def test_a_lease_that_nobody_refers_to_is_used_again_as_new(make_pool):
    pool = make_pool(kwargs=KWARGS, stacks="none")
    with pool.lease() as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS at_hand_again (id int)")
    lease = pool.acquire()
    lease.connection.execute("INSERT INTO at_hand_again VALUES (1)")
    assert lease.ran
    assert lease.statement
    lease.foreign = lease.wrote = lease.new_types = True  # as by other statements
    known: Any = weakref.ref(lease)
    lease.release()
    del lease
    again: Any = pool.acquire()
    assert again is known()
    fresh = type(again)(pool, again.key, ())
    fresh._connection, fresh.since = again._connection, again.since
    noted = {name: getattr(again, name) for name in vars(again)}
    assert noted == {name: getattr(fresh, name) for name in noted}
    fresh._connection = None
    again.release()


def test_one_that_is_referred_to_stays_over(make_pool):
    pool = make_pool(kwargs=KWARGS)
    lease = pool.acquire()
    cursor = lease.connection.cursor()
    connection = lease.connection
    lease.release()
    with pool.acquire() as again:
        assert again is connection
        assert lease.released
        assert lease.connection is None
        with pytest.raises(LeaseReleased):
            lease.release()
        with pytest.raises(LeaseReleased):
            lease.discard()
        with pytest.raises(LeaseReleased):
            cursor.execute("SELECT 1")
        again.execute("SELECT 1")
    with pytest.raises(LeaseReleased):
        connection.execute("SELECT 1")


def test_a_cursor_alone_keeps_its_lease_from_being_used_again(make_pool):
    pool = make_pool(kwargs=KWARGS)
    lease = pool.acquire()
    cursor = lease.connection.cursor()
    lease.release()
    del lease
    again = pool.acquire()
    with pytest.raises(LeaseReleased):
        cursor.execute("SELECT 1")
    assert again is not cursor._poolkit_lease
    again.release()


def test_it_is_idle_and_counted_as_what_it_was(make_pool, primary, app):
    pool, started = make_pool(kwargs={"application_name": app}), time.monotonic()
    for _ in range(3):
        lease = pool.acquire()
        time.sleep(0.01)
        lease.release()
        time.sleep(0.1)  # what it lies at hand is no use
    assert pool.load == 0
    stats = pool.stats()
    assert (stats.used, stats.idle, stats.size) == (0, 1, 1)
    assert (stats.acquired, stats.use.count) == (3, 3)
    assert 0.03 <= stats.use.sum <= time.monotonic() - started - 0.3
    assert pool.leases() == []
    assert not pool._at_hand
    assert_adds_up(pool, primary, app)


def test_who_takes_it_is_seen_by_the_figures(make_pool):
    pool = make_pool()
    laid_by(pool)
    lease = pool.acquire()
    stats = pool.stats()
    assert (stats.used, stats.idle, stats.acquired, stats.use.count) == (1, 0, 2, 1)
    assert [each.key for each in pool.leases()] == [lease.key]
    lease.release()


def test_another_thread_has_it_at_once(make_pool):
    pool = make_pool(max_size=1)
    connection = laid_by(pool)
    lease = Call(pool.acquire, 0).result()
    assert lease.connection is connection
    with pytest.raises(PoolTimeout):
        pool.acquire(0)
    lease.release()


def test_who_waits_comes_before_its_thread(make_pool):
    pool = make_pool(max_size=1)
    lease = pool.acquire()
    other = Call(pool.acquire)
    wait_until(lambda: pool.stats().waiters == 1)
    lease.release()
    assert not pool._at_hand
    other.result().release()


def test_what_a_thread_left_that_has_died_is_anybodys(make_pool):
    pool = make_pool(max_size=1)
    session = Call(lambda: laid_by(pool).info.backend_pid).result()
    assert pool.stats().idle == 1
    with pool.acquire(0) as connection:
        assert connection.info.backend_pid == session


def test_what_another_thread_acquired_is_not_left_for_it(make_pool):
    pool = make_pool(max_size=1)
    lease = Call(pool.acquire).result()
    lease.release()
    assert not pool._at_hand
    assert pool.stats().idle == 1


def test_of_several_the_one_used_last_comes_first(make_pool):
    pool = make_pool(max_size=3)
    pids = fill(pool, 3)
    leases = [pool.acquire() for _ in range(3)]
    order = [lease.connection.info.backend_pid for lease in leases]
    for lease in leases:
        lease.release()
    assert idle_pids(pool) == order
    assert sorted(order) == sorted(pids)


@pytest.mark.parametrize("verb", ["recycle", "pause", "close"])
def test_orders_are_for_what_lies_at_hand_as_well(make_pool, primary, app, verb: str):
    pool = make_pool(kwargs={"application_name": app})
    laid_by(pool)
    getattr(pool, verb)()
    wait_until(lambda: not primary.sessions(app))
    assert pool.stats().size == 0


def test_what_has_to_go_is_closed_for_its_own_reason(make_pool, primary, app):
    pool = make_pool(max_size=2, kwargs={"application_name": app})
    lease = pool.acquire()
    pool._generation += 1  # as by somebody who recycles at this moment
    lease.release()
    assert pool.stats().closed == {"recycled": 1}
    connection = laid_by(pool)
    connection._expire_at = 0.0
    pool.acquire().release()
    assert connection.closed
    assert pool.stats().closed["max_lifetime"] == 1
    leases = [pool.acquire(), pool.acquire()]
    pool.resize(0, 1)
    for lease in leases:
        lease.release()
    assert pool.stats().closed["resized"] == 1
    assert_adds_up(pool, primary, app)


def test_one_that_died_at_hand_is_not_given_out(make_pool, primary, app):
    pool = make_pool(kwargs={"application_name": app})
    connection = laid_by(pool)
    primary.kill_backends(app)
    with pool.acquire() as other:
        assert other is not connection
        assert other.execute("SELECT 1").fetchone() == (1,)


def test_a_key_that_was_shown_is_not_another_lease_by_the_time_it_is_killed(make_pool):
    pool = make_pool()
    lease = pool.acquire()
    (shown,) = pool.leases()
    lease.release()
    again = pool.acquire()
    assert not pool.kill(shown.key)
    again.release()


def test_one_that_is_dropped_is_taken_back(make_pool):
    pool = make_pool(max_size=1, stacks="all")
    laid_by(pool)
    pool.acquire()
    with pytest.warns(PoolWarning, match="test_one_that_is_dropped_is_taken_back"):
        pool.acquire(5.0).release()
    assert pool.stats().leaks == 1


def test_a_dropped_pool_goes_at_once(params):
    pool = ConnectionPool(kwargs=params)
    connection = laid_by(pool)
    gone = weakref.ref(pool)
    pool._signal_stop_worker()
    for worker in pool._workers:
        worker.join(10.0)
    gc.disable()
    try:
        del pool
        wait_until(lambda: gone() is None)
    finally:
        gc.enable()
    connection.close()


def test_the_child_of_a_fork_keeps_its_hands_off(make_pool, primary, app):
    pool = make_pool(kwargs={"application_name": app, **KWARGS})
    connection = laid_by(pool)
    child = os.fork()
    if not child:
        code = 1
        try:
            with pool.lease() as other:
                fresh = other.info.backend_pid != connection.info.backend_pid
            code = 0 if fresh and not connection.closed else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with pool.lease() as again:
        assert again is connection
        assert again.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.parametrize(
    "options", [{"check": lambda connection: None}, {"shares": {"a": 0.5}}, {"reset": "always"}]
)
def test_where_each_acquire_or_release_asks_for_more_nothing_is_left(make_pool, options):
    pool = make_pool(**options)
    pool.acquire().release()
    assert not pool._at_hand


def test_no_lease_is_lost_or_had_twice_whoever_comes_between(make_pool, primary, app):
    pool = make_pool(max_size=4, timeout=30.0, kwargs={"application_name": app})
    stop, counts = time.monotonic() + 2.0, [0] * 6
    using: set[int] = set()  # to add and to remove is atomic

    def work(number: int) -> None:
        choose = random.Random(number)
        while time.monotonic() < stop:
            lease = pool.acquire()
            key = id(lease.connection)
            assert key not in using
            using.add(key)
            if choose.random() < 0.1:
                time.sleep(0)
            using.remove(key)
            lease.release()
            counts[number] += 1

    def meddle() -> None:
        choose = random.Random(99)
        while time.monotonic() < stop:
            choose.choice([pool.stats, pool.leases, pool.collect, pool.recycle])()
            pool.resize(0, choose.choice([3, 4]))
            time.sleep(0.002)

    calls = [*(Call(work, number) for number in range(6)), Call(meddle)]
    for call in calls:
        call.result(60.0)
    assert all(counts)
    stats = pool.stats()
    assert (stats.used, stats.waiters, stats.timeouts, stats.leaks) == (0, 0, 0, 0)
    assert stats.acquired == stats.use.count == sum(counts)
    assert set(stats.closed) <= {"recycled", "resized"}
    assert_adds_up(pool, primary, app)


class Between:
    """Runs `act` once, where a function of a module is called: between two steps of the pool."""

    ran = False

    def __init__(self, monkeypatch, module, name, act):
        real = getattr(module, name)

        def between(*args):
            if not self.ran:
                self.ran = True
                act()
            return real(*args)

        monkeypatch.setattr(module, name, between)


class Interrupted:
    """Raises KeyboardInterrupt instead of each call."""

    def __init__(self, *args):
        raise KeyboardInterrupt


@pytest.mark.parametrize("step", ["attributes", "monotonic"])
def test_one_that_a_finalizer_leaves_in_the_middle_of_a_release_is_not_lost(
    make_pool, monkeypatch, primary, app, step
):
    pool = make_pool(max_size=2, kwargs={"application_name": app})
    first, second = pool.acquire(), pool.acquire()
    between = Between(monkeypatch, at_hand, step, first.release)
    second.release()
    assert between.ran
    assert pool.stats().idle == 2
    assert_adds_up(pool, primary, app)


def test_one_that_a_finalizer_leaves_in_the_middle_of_an_acquire_is_not_lost(
    make_pool, monkeypatch, primary, app
):
    pool = make_pool(max_size=3, kwargs={"application_name": app})
    other, connection = pool.acquire(), laid_by(pool)
    connection._used_at -= pool.config.bypass + 1  # so that it is not taken as it is
    between = Between(monkeypatch, at_hand, "monotonic", other.release)
    lease = pool.acquire()
    assert between.ran
    assert (pool.stats().used, pool.stats().idle) == (1, 1)
    lease.release()
    assert_adds_up(pool, primary, app)


@pytest.mark.parametrize("step", ["Lease", "ref", "getrefcount", "monotonic"])
def test_an_interrupt_of_an_acquire_leaves_it_to_all(make_pool, monkeypatch, primary, app, step):
    pool = make_pool(max_size=1, kwargs={"application_name": app})
    lease = pool.acquire()  # which is referred to, so that another one is made
    lease.release()
    monkeypatch.setattr(at_hand, step, Interrupted)
    with pytest.raises(KeyboardInterrupt):
        pool.acquire()
    monkeypatch.undo()
    stats = pool.stats()
    assert (stats.used, stats.idle, stats.leaks) == (0, 1, 0)
    assert_adds_up(pool, primary, app)


def test_who_queues_while_an_acquire_is_interrupted_is_served(make_pool, monkeypatch):
    pool = make_pool(max_size=1)
    laid_by(pool)
    calls, waited = [], pool._ledger.waited
    Between(monkeypatch, at_hand, "monotonic", lambda: calls.append(queue_up(pool, pool.acquire)))
    monkeypatch.setattr(at_hand, "getrefcount", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        pool.acquire()
    assert pool._ledger.waited == waited + 1  # by the one who was interrupted, and by no later look
    calls[0].result().release()


def test_of_two_threads_that_release_one_lease_one_is_refused(make_pool, monkeypatch, primary, app):
    pool = make_pool(max_size=2, kwargs={"application_name": app})
    lease = pool.acquire()
    other = Between(monkeypatch, at_hand, "attributes", lambda: Call(lease.release).result())
    with pytest.raises(LeaseReleased):
        lease.release()  # the other thread was faster
    assert other.ran
    assert_adds_up(pool, primary, app)


def test_of_two_threads_the_owner_may_be_the_faster_one(make_pool, monkeypatch, primary, app):
    pool = make_pool(max_size=2, kwargs={"application_name": app})
    lease = pool.acquire()
    reached, faster = threading.Event(), threading.Event()

    def wait() -> None:
        reached.set()
        assert faster.wait(10.0)

    # Wherever it passes on its way to the lock.
    Between(monkeypatch, release, "attributes", wait)
    Between(monkeypatch, reset, "hopeless", wait)
    other = Call(lease.release)
    assert reached.wait(10.0)
    lease.release()
    assert pool._at_hand
    faster.set()
    with pytest.raises(LeaseReleased):
        other.result()
    assert_adds_up(pool, primary, app)


def test_a_handler_that_releases_the_same_lease_is_the_one_that_does(
    make_pool, monkeypatch, primary, app
):
    pool = make_pool(max_size=2, kwargs={"application_name": app})
    lease = pool.acquire()

    def handle() -> None:
        lease.listed = False
        lease.release()
        assert pool._at_hand

    Between(monkeypatch, release, "attributes", handle)
    lease.listed = True  # so that it goes the way that ends at once
    with pytest.raises(LeaseReleased):
        lease.release()
    assert_adds_up(pool, primary, app)


def test_one_that_was_dropped_and_taken_back_by_its_thread_serves_it_no_more(
    make_pool, monkeypatch
):
    pool = make_pool()
    pool.acquire()
    monkeypatch.setattr(pool, "_count_leaks", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        pool.adopt_orphans()
    monkeypatch.undo()
    with pool.acquire() as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_an_interrupt_of_who_collects_leaves_the_others_at_hand(
    make_pool, monkeypatch, primary, app
):
    pool = make_pool(max_size=3, kwargs={"application_name": app})
    all_leased, over = threading.Barrier(3), threading.Event()

    def keep_at_hand() -> None:
        with pool.acquire():
            all_leased.wait(10.0)
        assert over.wait(10.0)

    threads = [Call(keep_at_hand) for _ in range(3)]
    wait_until(lambda: len(pool._at_hand) == 3)
    monkeypatch.setattr(pool, "_doubted_locked", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        pool.stats()
    monkeypatch.undo()
    over.set()
    for thread in threads:
        thread.result()
    stats = pool.stats()
    assert (stats.used, stats.idle, stats.leaks) == (0, 3, 0)
    assert_adds_up(pool, primary, app)


def test_a_lease_that_is_over_is_not_shown(make_pool, monkeypatch):
    pool = make_pool(max_size=2, leak_after=60.0)
    laid_by(pool)
    seen: list[Any] = []

    def look() -> None:
        lease = pool._ledger.live[key]()
        assert lease is not None
        lease.since -= 100.0
        seen.extend([pool.leases(), pool._overdue(60.0)])

    (key,) = pool._ledger.live
    Between(monkeypatch, at_hand, "monotonic", lambda: Call(look).result())
    lease = pool.acquire()
    assert seen == [[], []]
    assert (lease.listed, lease.overdue) == (False, False)
    lease.release()


def test_an_interrupted_block_leaves_nothing_for_the_next(make_pool, monkeypatch):
    pool = make_pool(max_size=1)
    with pytest.raises(KeyboardInterrupt), pool.lease():
        monkeypatch.setattr(pool, "collect", Interrupted)
        pool._pool_full_event = threading.Event()
    monkeypatch.undo()
    pool._pool_full_event = None
    lease = pool.acquire()
    assert not lease.in_block
    lease.release()


def test_what_stood_still_stood_still_since_its_release(make_pool):
    pool = make_pool(max_size=2)
    lease = pool.acquire()
    connection = laid_by(pool)
    connection._used_at -= 100.0
    lease.since -= 300.0
    pool._ledger.settled_at = 0.0
    assert 100.0 <= pool.stats().standstill < 200.0
    lease.release()


def test_a_lease_that_has_outlived_its_pool_says_so(params):
    pool = ConnectionPool(kwargs=params, name="gone")
    lease: Any = pool.acquire()
    lease.release()
    assert lease.pool.config is pool.config  # as before
    pool.close()
    del pool
    gc.collect()
    assert repr(lease) == "<Lease of 'gone', released>"
    for end in (lease.release, lease.discard):
        with pytest.raises(LeaseReleased, match="pool 'gone' has been released already"):
            end()

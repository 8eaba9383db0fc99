"""Leases between two turns: at hand for their owners, and idle for everybody else."""

from __future__ import annotations

import gc
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from psycopg.pq import PipelineStatus

from django_poolkit.pools.config import PoolConfig
from django_poolkit.pools.lease import Lease
from django_poolkit.pools.postgres import ConnectionPool, acquire, deadlock
from django_poolkit.pools.postgres.errors import LeaseReleased, PoolPaused, PoolTimeout
from django_poolkit.testing import Node
from django_poolkit.testing.waiting import wait_until
from tests.pools.support import Call, assert_adds_up

DEPTH, SKIP = 10, 1


@pytest.fixture
def make(params: dict[str, Any], app: str) -> Iterator[Callable[..., ConnectionPool]]:
    """Return a function that makes pools as Django's connections of transaction mode have them."""
    pools: list[ConnectionPool] = []

    def make(**options: Any) -> ConnectionPool:
        kwargs = {**params, "application_name": app, **options.pop("kwargs", {})}
        # On a machine that is slow a turn may come later than the bypass window is long.
        given = {
            "max_size": 2, "mode": "transaction", "reset": "dirty", "bypass": 60.0, **options
        }  # fmt: skip
        config = PoolConfig.from_options(given, path="pool")
        pools.append(ConnectionPool(kwargs=kwargs, config=config))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


def rested(pool: ConnectionPool) -> Lease:
    """Return a lease that rests after a turn."""
    lease = pool.acquire()
    assert pool.rest(lease)
    return lease


def rouse(pool: ConnectionPool, lease: Lease) -> bool:
    """Ask for another turn of it."""
    return pool.rouse(lease, DEPTH, SKIP)


def test_its_owner_has_the_same_lease_again(make):
    pool = make()
    lease = rested(pool)
    connection = lease.connection
    assert rouse(pool, lease)
    assert lease.connection is connection
    assert not lease.released
    assert (pool.stats().used, pool.stats().idle) == (1, 0)
    lease.release()
    assert (pool.stats().used, pool.stats().idle) == (0, 1)


def test_each_turn_counts_as_a_lease_that_was_acquired_and_used(make):
    pool, started = make(), time.monotonic()
    lease = rested(pool)
    for _ in range(3):
        assert rouse(pool, lease)
        time.sleep(0.01)
        assert pool.rest(lease)
        time.sleep(0.1)  # what it rests is no use
    stats = pool.stats()
    assert (stats.acquired, stats.use.count) == (4, 4)
    assert 0.03 <= stats.use.sum <= time.monotonic() - started - 0.3
    assert pool.get_stats()["requests_num"] == 4


def test_the_turns_of_one_that_is_leased_are_counted_as_well(make):
    pool = make()
    lease = rested(pool)
    assert rouse(pool, lease)
    stats = pool.stats()
    assert (stats.acquired, stats.use.count, stats.used) == (2, 1, 1)
    lease.release()
    assert (pool.stats().acquired, pool.stats().use.count) == (2, 2)


def test_one_that_rests_is_idle(make, primary: Node, app: str):
    pool = make()
    lease = rested(pool)
    stats = pool.stats()
    assert (stats.used, stats.idle, stats.size) == (0, 1, 1)
    assert pool.leases() == []
    assert pool.load == 0
    assert lease.released
    assert not rouse(pool, lease)
    assert_adds_up(pool, primary, app)


def test_the_load_leaves_out_what_rests(make):
    pool = make()
    lease = rested(pool)
    assert pool.load == 0
    assert rouse(pool, lease)
    assert pool.load == 1
    lease.release()


def test_another_thread_has_its_connection_at_once(make):
    pool = make(max_size=1)
    lease = rested(pool)
    connection = lease.connection
    other = Call(pool.acquire, 0).result()  # would have to wait otherwise
    assert other.connection is connection
    assert lease.released
    assert not rouse(pool, lease)
    other.release()
    assert pool.stats().acquired == 2


def test_who_waits_comes_before_its_owner(make):
    pool = make(max_size=1)
    lease = pool.acquire()
    other = Call(pool.acquire)
    wait_until(lambda: pool.stats().waiters == 1)
    assert not pool.rest(lease)
    other.result().release()
    assert lease.released


def test_one_who_begins_to_wait_as_a_lease_goes_to_rest_is_served(make):
    # Between the owner's last look and the first of the other there is no gap.
    pool = make(max_size=1, timeout=20.0)
    stop = time.monotonic() + 1.0
    counts = [0, 0]

    def work(number: int) -> None:
        lease = None
        while time.monotonic() < stop:
            if lease is None or not rouse(pool, lease):
                lease = pool.acquire()
            counts[number] += 1
            lease = lease if pool.rest(lease) else None

    calls = [Call(work, number) for number in range(2)]
    for call in calls:
        call.result(30.0)
    assert all(counts)
    stats = pool.stats()
    assert (stats.used, stats.size, stats.waiters, stats.timeouts) == (0, 1, 0, 0)
    assert stats.acquired == stats.use.count == sum(counts)


def test_what_an_operator_was_shown_is_not_another_turn_by_the_time_it_is_killed(make):
    pool = make()
    lease = pool.acquire()
    (shown,) = pool.leases()
    assert not pool.rest(lease)
    again = pool.acquire()
    assert not pool.kill(shown.key)
    again.release()


def test_that_goes_for_one_that_was_shown_as_it_went_to_rest(make):
    pool = make()
    lease = rested(pool)
    lease.listed = True
    assert not rouse(pool, lease)
    assert lease.released


STALE: list[Callable[[Any], object]] = [
    lambda cursor: cursor.execute("SELECT 1"),
    lambda cursor: cursor.executemany("SELECT %s", [(1,), (2,)]),
    lambda cursor: cursor.fetchone(),
    lambda cursor: cursor.copy("COPY (SELECT 1) TO STDOUT").__enter__(),
    lambda cursor: next(cursor.stream("SELECT 1")),
]


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("use", STALE)
def test_cursors_of_an_earlier_turn_are_refused_and_note_nothing(make, use, again: bool):
    pool = make(kwargs={"autocommit": True})
    lease = pool.acquire()
    cursor = lease.connection.cursor()
    cursor.execute("SELECT 1")
    cursor.close()
    lease.statement = None
    assert pool.rest(lease)
    if again:
        assert rouse(pool, lease)
    with pytest.raises(LeaseReleased):
        use(cursor)
    assert lease.statement is None
    assert lease.dirty is None
    assert lease.connection.pgconn.pipeline_status == PipelineStatus.OFF
    if again:
        lease.release()


@pytest.mark.parametrize("verb", ["recycle", "pause", "close"])
def test_orders_are_for_those_that_rest_as_well(make, primary: Node, app: str, verb: str):
    pool = make()
    lease = rested(pool)
    getattr(pool, verb)()
    wait_until(lambda: not primary.sessions(app))
    assert not rouse(pool, lease)
    assert pool.stats().size == 0


def test_in_a_pause_nothing_rests(make, primary: Node, app: str):
    pool = make()
    lease = pool.acquire()
    pool.pause()
    assert not pool.rest(lease)
    wait_until(lambda: not primary.sessions(app))
    with pytest.raises(PoolPaused):
        pool.acquire(0)


def test_a_smaller_pool_keeps_none_too_many(make, primary: Node, app: str):
    pool = make(max_size=2)
    leases = [pool.acquire(), pool.acquire()]
    assert all(map(pool.rest, leases))
    pool.resize(0, 1)
    assert pool.stats().size == 1
    assert_adds_up(pool, primary, app)


def test_what_was_recycled_as_it_went_to_rest_is_closed(make, primary: Node, app: str):
    pool = make(max_size=1)
    lease = rested(pool)
    old = lease.connection
    pool._generation += 1  # as by somebody who saw it neither leased nor at rest
    assert not rouse(pool, lease)
    with pool.lease() as connection:
        assert connection is not old
    assert old.closed
    assert pool.stats().closed == {"recycled": 1}
    assert_adds_up(pool, primary, app)


def test_one_past_its_lifetime_does_not_rest(make):
    pool = make()
    lease = pool.acquire()
    lease.connection._expire_at = time.monotonic()
    assert not pool.rest(lease)
    assert pool.stats().closed == {"max_lifetime": 1}


def test_one_that_reaches_its_lifetime_as_it_rests_is_closed(make, primary: Node, app: str):
    pool = make()
    lease = rested(pool)
    connection = lease.connection
    connection._expire_at = time.monotonic()
    pool.collect()
    pool.adopt_orphans()
    assert connection.closed
    assert pool.stats().closed == {"max_lifetime": 1}
    assert pool.stats().leaks == 0
    assert_adds_up(pool, primary, app)


def test_a_dead_connection_is_no_turn(make, primary: Node, app: str):
    pool = make()
    lease = rested(pool)
    dead = lease.connection
    primary.kill_backend(dead.info.backend_pid)
    wait_until(lambda: dead._poller.poll(0))
    assert not rouse(pool, lease)
    with pool.lease() as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    assert pool.stats().closed == {"dead": 1}


def test_after_the_bypass_window_it_is_asked(make):
    pool = make(bypass=0.0)
    lease = rested(pool)
    assert not rouse(pool, lease)
    assert pool.stats().idle == 1


def test_another_thread_than_its_owners_cannot_rouse_it(make):
    pool = make()
    lease = rested(pool)
    assert not Call(rouse, pool, lease).result()
    assert rouse(pool, lease)
    lease.release()


@pytest.mark.parametrize(
    "mark", ["foreign", "prepares", "new_types", "wrote", "committed", "overdue", "shared"]
)
def test_what_a_release_has_to_look_at_does_not_rest(make, mark: str):
    pool = make()
    lease = pool.acquire()
    setattr(lease, mark, True)
    assert not pool.rest(lease)
    assert lease.released
    assert pool.stats().idle == 1


def test_one_that_may_carry_session_state_is_reset(make):
    pool = make()
    lease = pool.acquire()
    lease.connection.execute("SET work_mem = '7MB'")
    assert lease.dirty
    assert not pool.rest(lease)
    assert pool.stats().resets == 1


def test_attributes_of_the_driver_are_as_they_were_for_the_next(make):
    pool = make()
    lease = pool.acquire()
    lease.connection.autocommit = not lease.connection.autocommit
    assert not pool.rest(lease)
    with pool.lease() as connection:
        assert connection.autocommit is False


def test_where_somebody_listens_each_turn_is_told(make):
    pool = make()
    told = []
    lease = rested(pool)
    pool.events.subscribe(lambda event, facts: told.append(event), leases=True)
    assert not rouse(pool, lease)
    lease = pool.acquire()
    assert not pool.rest(lease)
    assert "lease_acquired" in told
    assert "lease_released" in told


@pytest.mark.parametrize(
    "options",
    [{"shares": {"reports": 0.5}}, {"check": lambda connection: None}, {"reset": "always"},
     {"reset": lambda connection: None}, {"verify_state": True}],
)  # fmt: skip
def test_where_each_release_or_acquire_asks_for_more_nothing_rests(make, options):
    pool = make(**options)
    lease = pool.acquire()
    assert not pool.rest(lease)
    assert lease.released


def test_a_thread_that_ends_leaves_an_idle_connection_and_no_leak(make, recwarn):
    pool = make(max_size=1)
    Call(rested, pool).result()
    gc.collect()
    with pool.lease(timeout=0):
        pass
    assert pool.stats().leaks == 0
    assert not recwarn.list


def test_an_owner_that_closes_settles_it(make):
    pool = make()
    lease = rested(pool)
    pool.end_rest(lease)
    assert lease.released
    assert not pool._resting
    assert len(pool._pool) == 1
    pool.end_rest(lease)  # somebody else may have had it by then
    assert pool.stats().use.count == 1


def test_a_forked_child_opens_its_own(make):
    pool = make(max_size=1)
    lease = rested(pool)
    mine = lease.connection.info.backend_pid
    child = os.fork()
    if not child:
        code = 1
        try:
            inherited = not rouse(pool, lease)
            with pool.lease() as connection:
                other = connection.info.backend_pid != mine
            code = 0 if inherited and other and not pool._resting else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert rouse(pool, lease)
    assert lease.connection.execute("SELECT 1").fetchone() == (1,)
    lease.connection.rollback()
    lease.release()


def test_many_threads_and_an_operator_leave_the_sum_as_it_is(make, primary: Node, app: str):
    pool = make(max_size=3, timeout=30.0, kwargs={"autocommit": True})
    stop = time.monotonic() + 2.0
    turns = [0] * 6
    using: set[int] = set()
    guard = threading.Lock()

    def work(number: int) -> None:
        dice = random.Random(number)
        lease = None
        while time.monotonic() < stop:
            if lease is None or not rouse(pool, lease):
                if lease is not None:
                    pool.end_rest(lease)
                lease = pool.acquire()
            connection = lease.connection
            with guard:
                assert id(connection) not in using, "two have the same connection"
                using.add(id(connection))
            if dice.random() < 0.2:
                assert connection.execute("SELECT 1").fetchone() == (1,)
            turns[number] += 1
            with guard:
                using.remove(id(connection))
            if dice.random() < 0.1:
                lease.release()
                lease = None
            elif not pool.rest(lease):
                lease = None

    def steer() -> None:
        dice = random.Random(99)
        while time.monotonic() < stop:
            time.sleep(0.02)
            stats = pool.stats()
            assert stats.size == stats.idle + stats.used + stats.connecting <= 3
            dice.choice([pool.recycle, pool.collect, lambda: pool.resize(0, dice.randint(1, 3))])()
        pool.resize(0, 3)

    calls = [Call(work, number) for number in range(6)] + [Call(steer)]
    for call in calls:
        call.result(60.0)
    assert all(turns)
    pool.collect()
    pool.adopt_orphans()
    stats = pool.stats()
    assert (stats.used, stats.waiters, stats.timeouts, stats.leaks) == (0, 0, 0, 0)
    assert stats.acquired == stats.use.count == sum(turns)
    wait_until(lambda: len(primary.sessions(app)) == pool.stats().size)


def test_in_a_full_pool_a_timeout_does_not_pass_over_one_that_rests(make):
    pool = make(max_size=1)
    lease = pool.acquire()
    with pytest.raises(PoolTimeout):
        Call(pool.acquire, 0).result()
    assert pool.rest(lease)
    Call(lambda: pool.acquire(0).release()).result()


@pytest.mark.parametrize("options", [{}, {"max_waiting": 5}], ids=["short way", "long way"])
def test_what_comes_to_rest_as_somebody_queues_is_found(make, monkeypatch, options):
    # Who found nothing that rested, and is not in the queue yet, is seen by no owner.
    monkeypatch.setattr(acquire, "_ORPHAN_ROUND", 60.0)  # nor does it look by the clock
    pool = make(max_size=1, timeout=30.0, **options)
    lease = pool.acquire()
    monkeypatch.setattr(deadlock, "look_locked", lambda *_: pool.rest(lease))
    call = Call(pool.acquire)
    call.result(timeout=10.0).release()
    assert lease.released
    assert (pool.stats().used, pool.stats().idle, pool.stats().waiters) == (0, 1, 0)

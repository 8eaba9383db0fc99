"""The queue: order, the hand-over, and the races between a hand-over and a farewell."""

from __future__ import annotations

import ctypes
import threading
import time
from contextlib import suppress
from typing import Any

import pytest

from django_poolkit.pools.lease import Lease
from django_poolkit.pools.postgres.errors import PoolClosed, PoolTimeout
from django_poolkit.pools.postgres.waiters import ThreadWaiter, Waiters
from django_poolkit.testing.waiting import wait_until
from tests.pools.support import PATIENCE, Call, assert_adds_up, pid, queue_up

# A waiter never looks at its lease: the pool does.
NOBODY: Any = None
LONG = [pytest.mark.slow, pytest.mark.timeout(300)]


def make_waiters(count):
    waiters, members = Waiters(), []
    for _ in range(count):
        members.append(ThreadWaiter(NOBODY))
        waiters.append(members[-1])
    return waiters, members


@pytest.mark.core
class TestThreadWaiter:
    def test_it_accepts_one_connection(self):
        waiter = ThreadWaiter(NOBODY)
        assert not waiter.settled
        assert waiter.set("first")
        assert not waiter.set("second")
        assert not waiter.fail(ValueError())
        assert (waiter.connection, waiter.error) == ("first", None)

    def test_it_accepts_one_error(self):
        waiter, error = ThreadWaiter(NOBODY), ValueError()
        assert waiter.fail(error)
        assert not waiter.fail(KeyError())
        assert not waiter.set("late")
        assert (waiter.connection, waiter.error) == (None, error)

    def test_it_wakes_the_moment_it_is_served(self):
        waiter = ThreadWaiter(NOBODY)
        call = Call(waiter.wait, 60.0)
        waiter.set("connection")
        call.result()

    def test_it_wakes_the_moment_it_is_refused(self):
        waiter = ThreadWaiter(NOBODY)
        call = Call(waiter.wait, 60.0)
        waiter.fail(ValueError())
        call.result()

    def test_it_does_not_sleep_when_it_has_been_served(self):
        waiter = ThreadWaiter(NOBODY)
        waiter.set("connection")
        for _ in range(3):
            waiter.wait(0.0)
        waiter.wait(60.0)

    @pytest.mark.parametrize("timeout", [0.0, -1.0, 0.001])
    def test_it_gives_up(self, timeout):
        waiter = ThreadWaiter(NOBODY)
        waiter.wait(timeout)
        assert not waiter.settled

    def test_it_can_wait_for_ever(self):
        waiter = ThreadWaiter(NOBODY)
        call = Call(waiter.wait, float("inf"))
        waiter.set("connection")
        call.result()


@pytest.mark.core
class TestQueue:
    def test_first_come_first_served(self):
        waiters, members = make_waiters(3)
        assert [waiters.popleft() for _ in range(3)] == members
        assert not waiters

    def test_one_leaves_from_the_middle(self):
        waiters, members = make_waiters(3)
        waiters.remove(members[1])
        waiters.remove(members[1])
        assert len(waiters) == 2
        assert [waiters.popleft(), waiters.popleft()] == [members[0], members[2]]

    def test_one_with_an_older_right_goes_first(self):
        waiters, _ = make_waiters(3)
        old = ThreadWaiter(NOBODY)
        waiters.append_first(old)
        assert waiters.popleft() is old

    def test_all_are_taken_in_order(self):
        waiters, members = make_waiters(3)
        assert waiters.take_all() == members
        assert not waiters

    def test_the_age_of_the_first(self):
        waiters, members = make_waiters(2)
        assert waiters.oldest(members[0].since + 5.0) == pytest.approx(5.0)
        assert Waiters().oldest(1.0) == 0.0


def test_who_has_gone_is_passed_over(make_pool):
    """A waiter that has been refused is still in the queue for a moment, and gets nothing."""
    pool = make_pool(max_size=1)
    held = pool.acquire()
    gone = ThreadWaiter(Lease(pool, pool._ledger.new_key(), ()))
    with pool._lock:
        pool._waiting.append(gone)
        gone.fail(ValueError())
    call = Call(pool.acquire)
    wait_until(lambda: pool.stats().waiters == 2)
    expected = pid(held)
    held.release()
    lease = call.result()
    assert pid(lease) == expected
    lease.release()
    assert gone.connection is None


@pytest.mark.parametrize("closes", [False, True])
def test_who_is_settled_and_not_woken_looks_for_itself(make_pool, monkeypatch, closes):
    """An interrupt hits who was about to wake it: it does not sleep until its time is up."""
    pool = make_pool(max_size=1)
    held = pool.acquire()
    call = queue_up(pool, pool.acquire, 6 * PATIENCE)

    def interrupted(waiter):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ThreadWaiter, "_wake", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pool.close() if closes else held.release()
    if closes:
        with pytest.raises(PoolClosed):
            call.result()
        held.release()
    else:
        call.result().release()
    assert pool.stats().used == 0


@pytest.mark.core
def test_a_newcomer_is_served_after_those_who_wait(make_pool):
    pool = make_pool(max_size=1)
    held, served = pool.acquire(), []

    def take(number):
        with pool.acquire():
            served.append(number)

    calls = [queue_up(pool, take, number) for number in range(10)]
    calls.append(queue_up(pool, take, "newcomer"))
    held.release()
    for call in calls:
        call.result()
    assert served == [*range(10), "newcomer"]


@pytest.mark.core
def test_a_caller_without_time_never_overtakes(make_pool):
    """Also not in the moment in which a connection is free and the queue is not yet served."""
    pool = make_pool(max_size=1)
    held = pool.acquire()
    waiter = queue_up(pool, lambda: pool.acquire().release())
    with pytest.raises(PoolTimeout):
        pool.acquire(timeout=0)
    pool._paused_until = time.monotonic() + 60.0
    held.release()
    # One is idle and one waits: it stands still at exactly that moment.
    assert (pool.stats().idle, pool.stats().waiters) == (1, 1)
    pool._paused_until = 0.0
    with pytest.raises(PoolTimeout):
        pool.acquire(timeout=0)
    pool.resume()
    waiter.result()
    pool.acquire(timeout=0).release()


@pytest.mark.core
def test_a_caller_without_time_fails_at_once(make_pool):
    pool = make_pool(max_size=1)
    with pool.acquire():
        started = time.monotonic()
        with pytest.raises(PoolTimeout):
            pool.acquire(timeout=0)
        assert time.monotonic() - started < 0.5
    assert pool.stats().timeouts == 1


def test_64_threads_share_8_connections_evenly(make_pool, primary, app):
    """By count of turns while all of them compete: the first to finish ends the race."""
    pool = make_pool(max_size=8, kwargs={"application_name": app}, timeout=60.0)
    threads, goal = 64, 40
    turns, start, over = [0] * threads, threading.Barrier(threads), threading.Event()

    def compete(number):
        start.wait(PATIENCE)
        while not over.is_set():
            with pool.acquire() as connection:
                connection.execute("SELECT 1")
                turns[number] += 1
            if turns[number] >= goal:
                over.set()

    calls = [Call(compete, number) for number in range(threads)]
    for call in calls:
        call.result(60.0)
    jain = sum(turns) ** 2 / (threads * sum(n * n for n in turns))
    assert jain >= 0.99, sorted(turns)
    assert pool.stats().waited > sum(turns) / 2
    assert_adds_up(pool, primary, app)
    assert pool.stats().used == 0


@pytest.mark.core
@pytest.mark.parametrize("enough", [1500, pytest.param(10_000, marks=LONG)])
def test_no_slot_is_lost_when_a_connection_arrives_as_its_waiter_leaves(
    make_pool, primary, app, enough
):
    pool = make_pool(max_size=2, kwargs={"application_name": app})
    taken, gone, over = [0] * 8, [0] * 8, threading.Event()

    def compete(number):
        while not over.is_set():
            try:
                # Up to the time for which the others hold a connection: the narrowest race.
                lease = pool.acquire(timeout=0.0003 * (1 + number % 3))
            except PoolTimeout:
                gone[number] += 1
                continue
            taken[number] += 1
            if number % 2:
                time.sleep(0.0003)
            lease.release()

    calls = [Call(compete, number) for number in range(8)]
    wait_until(lambda: sum(taken) > enough and sum(gone) > enough, 30.0 * enough / 1500)
    over.set()
    for call in calls:
        call.result()
    stats = pool.stats()
    assert (stats.used, stats.waiters) == (0, 0)
    assert stats.acquired == sum(taken)
    assert stats.timeouts == sum(gone)
    assert_adds_up(pool, primary, app)
    with pool.acquire(), pool.acquire():
        pass


def interrupt(thread):
    """Raise KeyboardInterrupt in a thread, at whichever bytecode it is."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread.ident), ctypes.py_object(KeyboardInterrupt)
    )


@pytest.mark.core
def test_an_interrupted_waiter_leaves_the_queue(make_pool):
    pool = make_pool(max_size=1)
    held = pool.acquire()
    call = queue_up(pool, pool.acquire)
    interrupt(call)
    with pytest.raises(KeyboardInterrupt):
        call.result()
    assert pool.stats().waiters == 0
    held.release()
    assert pool.stats().idle == 1
    pool.acquire(timeout=0).release()


@pytest.mark.filterwarnings("ignore::django_poolkit.pools.errors.PoolWarning")
def test_interrupts_at_any_moment_lose_no_slot(make_pool, primary, app):
    pool = make_pool(max_size=2, kwargs={"application_name": app})
    rounds, over = 150, threading.Event()

    def compete():
        while not over.is_set():
            with suppress(PoolTimeout):
                pool.acquire(timeout=1.0).release()

    def victim():
        while True:
            pool.acquire(timeout=1.0).release()

    rivals = [Call(compete) for _ in range(3)]
    for number in range(rounds):
        call = Call(victim)
        # Later and later, so that it is hit all over its way through the pool.
        wait_until(call.is_alive)
        time.sleep(0.00007 * (number % 40))
        interrupt(call)
        with pytest.raises(KeyboardInterrupt):
            call.result()
    over.set()
    for rival in rivals:
        rival.result()
    leases = [pool.acquire(), pool.acquire()]
    assert pool.stats().used == 2
    for lease in leases:
        lease.release()
    assert pool.stats().waiters == 0
    assert pool.stats().size == pool.stats().idle

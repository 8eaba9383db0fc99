"""How many connects are under way: never more than are wanted, and as many as that at once."""

from __future__ import annotations

import heapq
import threading
import time
from itertools import pairwise

import pytest

from django_poolkit.pools.chance import chance
from django_poolkit.pools.postgres import growth
from django_poolkit.pools.postgres.growth import Attempt, Growth
from django_poolkit.testing.waiting import wait_until
from tests.pools.support import Call, assert_adds_up, fill, queue_up


def make(workers=3, cap=2.0):
    return Growth(workers=workers, cap=cap)


@pytest.mark.core
class TestPlan:
    @pytest.mark.parametrize(
        ("waiters", "room", "workers", "expected"),
        [
            (5, 5, 3, 3), (2, 5, 3, 2), (5, 1, 3, 1), (0, 5, 3, 0), (5, 0, 3, 0), (5, -2, 3, 0),
            (9, 9, 1, 1),
        ],
    )  # fmt: skip
    def test_it_is_bounded_by_waiters_room_and_workers(self, waiters, room, workers, expected):
        assert len(make(workers).plan(waiters=waiters, room=room)) == expected

    def test_what_is_under_way_counts(self):
        attempts = make()
        attempts.plan(waiters=2, room=5)
        assert len(attempts.plan(waiters=2, room=5)) == 0
        assert len(attempts.plan(waiters=9, room=5)) == 1
        assert len(attempts) == 3

    def test_filling_up_is_planned_at_once(self):
        attempts = make()
        assert len(attempts.add(7)) == len(attempts) == 7


@pytest.mark.core
class TestAdmit:
    def test_one_that_is_wanted_begins(self):
        attempts = make()
        [one] = attempts.plan(waiters=1, room=1)
        assert attempts.admit(one, waiters=1, short=False)
        assert one.started > 0

    def test_one_that_nobody_waits_for_any_more_is_dropped(self):
        attempts = make()
        [one] = attempts.plan(waiters=1, room=1)
        assert not attempts.admit(one, waiters=0, short=False)
        assert len(attempts) == 0

    def test_those_that_run_count_against_the_waiters(self):
        attempts = make()
        one, two = attempts.plan(waiters=2, room=2)
        assert attempts.admit(one, waiters=2, short=False)
        assert not attempts.admit(two, waiters=1, short=False)

    @pytest.mark.parametrize("replaces", [False, True])
    def test_one_for_the_pool_itself_needs_no_waiter(self, replaces):
        attempts = make()
        [one] = attempts.add(1, replaces=replaces)
        assert attempts.admit(one, waiters=0, short=not replaces)

    def test_one_that_was_struck_out_or_runs_does_not_begin(self):
        attempts = make()
        one, two = attempts.plan(waiters=2, room=2)
        attempts.admit(one, waiters=2, short=False)
        assert not attempts.admit(one, waiters=2, short=False)
        attempts.attempts.clear()
        assert not attempts.admit(two, waiters=2, short=False)


@pytest.mark.core
class TestPauses:
    def fail(self, attempts, attempt):
        assert attempts.admit(attempt, waiters=1, short=False)
        return attempts.failed(attempt, wanted=True)

    def test_they_double_up_to_the_cap(self, monkeypatch):
        monkeypatch.setattr(chance, "uniform", lambda low, high: 1.0)
        attempts = make(cap=1.0)
        [one] = attempts.plan(waiters=1, room=1)
        assert [self.fail(attempts, one) for _ in range(6)] == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]

    def test_they_are_spread(self):
        attempts = make(cap=1.0)
        [one] = attempts.plan(waiters=1, room=1)
        one.pause = 1.0
        pauses = [self.fail(attempts, one) for _ in range(200)]
        assert 0.9 <= min(pauses) < 0.95
        assert 1.05 < max(pauses) <= 1.1

    def test_one_that_is_not_wanted_gives_up(self):
        attempts = make()
        [one] = attempts.plan(waiters=1, room=1)
        attempts.admit(one, waiters=1, short=False)
        assert attempts.failed(one, wanted=False) is None
        assert len(attempts) == 0

    def test_a_sleeping_one_is_woken_by_a_new_waiter(self):
        attempts = make(workers=1)
        [one] = attempts.plan(waiters=1, room=5)
        self.fail(attempts, one)
        assert attempts.plan(waiters=2, room=5) == [one]
        assert not one.sleeping

    def test_not_more_often_than_the_interval(self, monkeypatch):
        attempts = make(workers=1)
        [one] = attempts.plan(waiters=1, room=5)
        now = [time.monotonic()]
        monkeypatch.setattr(growth, "monotonic", lambda: now[0])
        self.fail(attempts, one)
        assert attempts.plan(waiters=2, room=5) == [one]
        self.fail(attempts, one)
        assert attempts.plan(waiters=3, room=5) == []
        now[0] += 1.01 * growth.WAKE_INTERVAL  # the sum is rounded
        assert attempts.plan(waiters=3, room=5) == [one]

    def test_a_success_wakes_all(self):
        attempts = make()
        one, two, three = attempts.plan(waiters=3, room=3)
        self.fail(attempts, one)
        self.fail(attempts, two)
        assert set(attempts.succeeded(three)) == {one, two}
        assert not one.sleeping
        assert not two.sleeping
        assert len(attempts) == 2

    def test_a_pause_ends_once(self):
        attempts = make()
        [one] = attempts.plan(waiters=1, room=1)
        self.fail(attempts, one)
        assert attempts.due(one, one.nap) == 0.0
        assert attempts.due(one, one.nap) is None

    def test_the_clock_of_one_pause_does_not_end_the_next(self):
        attempts = make()
        [one] = attempts.plan(waiters=1, room=1)
        self.fail(attempts, one)
        first = one.nap
        attempts.due(one, first)
        self.fail(attempts, one)
        assert attempts.due(one, first) is None
        assert attempts.due(one, one.nap) == 0.0

    def test_a_large_minimum_does_not_knock_as_often_as_it_is_large(self, monkeypatch):
        """100 that are missing, a minute without the server, 3 workers and a cap of 2 s."""
        now, tried = [0.0], []
        clocks: list[tuple[float, int, Attempt, int]] = []
        monkeypatch.setattr(growth, "monotonic", lambda: now[0])
        attempts = make(workers=3, cap=2.0)

        def knock(attempt):
            assert attempts.admit(attempt, waiters=0, short=True)
            tried.append(now[0])
            seconds = attempts.failed(attempt, wanted=True)
            heapq.heappush(clocks, (now[0] + seconds, id(attempt), attempt, attempt.nap))

        for attempt in attempts.add(100):
            knock(attempt)
        while now[0] < 60.0:
            now[0], _, attempt, nap = heapq.heappop(clocks)
            seconds = attempts.due(attempt, nap)
            if seconds:
                heapq.heappush(clocks, (now[0] + seconds, id(attempt), attempt, nap))
            else:
                knock(attempt)
        later = [at for at in tried if at > 10.0]
        # Three in each pause, which may be a tenth shorter; and never none for longer than one.
        assert len(later) <= 3 * 50.0 / (2.0 * 0.9) + 3
        assert max(b - a for a, b in pairwise(later)) <= 2.0 * 1.1
        assert len(tried) < 100 + 3 * 60.0 / (2.0 * 0.9) + 3 * 6
        assert len(attempts.succeeded(attempt)) == 99

    def test_what_nobody_begins_is_handed_out_again(self, monkeypatch):
        attempts = make()
        [one] = attempts.plan(waiters=1, room=1)
        assert attempts.stranded() == []
        one.planned -= 2 * growth.STRANDED
        assert attempts.stranded() == [one]
        assert attempts.stranded() == []
        one.planned -= 2 * growth.STRANDED
        attempts.admit(one, waiters=1, short=False)
        assert attempts.stranded() == []

    def test_the_oldest_that_runs(self):
        attempts = make()
        one, _ = attempts.plan(waiters=2, room=2)
        assert attempts.pending(time.monotonic()) == 0.0
        attempts.admit(one, waiters=2, short=False)
        assert attempts.pending(one.started + 5.0) == 5.0


class Gate:
    """A `configure` that holds connects until it is opened, and counts those at it."""

    def __init__(self):
        self.open = threading.Event()
        self.at = 0
        self.most = 0
        self._lock = threading.Lock()

    def __call__(self, connection):
        with self._lock:
            self.at += 1
            self.most = max(self.most, self.at)
        assert self.open.wait(20.0)
        with self._lock:
            self.at -= 1


@pytest.mark.core
def test_a_burst_is_served_by_several_connects_at_once(make_pool):
    gate = Gate()
    pool = make_pool(max_size=10, configure=gate)
    calls = [queue_up(pool, pool.acquire) for _ in range(6)]
    wait_until(lambda: gate.at == 3)
    assert pool.stats().connecting == 3
    gate.open.set()
    for call in calls:
        call.result().release()
    assert gate.most == 3


@pytest.mark.core
def test_no_more_connects_than_waiters(make_pool):
    gate = Gate()
    pool = make_pool(max_size=10, num_workers=5, configure=gate)
    calls = [queue_up(pool, pool.acquire) for _ in range(2)]
    wait_until(lambda: gate.at == 2)
    assert pool.stats().connecting == 2
    gate.open.set()
    for call in calls:
        call.result().release()
    wait_until(lambda: pool.stats().connects == 2)
    assert pool.stats().connecting == 0


@pytest.mark.core
def test_a_returned_connection_serves_before_a_slow_connect(make_pool):
    gate = Gate()
    gate.open.set()
    pool = make_pool(max_size=2, configure=gate)
    held = pool.acquire()
    gate.open.clear()
    call = queue_up(pool, pool.acquire)
    wait_until(lambda: gate.at == 1)
    held.release()
    lease = call.result(2.0)
    assert gate.at == 1
    gate.open.set()
    lease.release()


def test_a_spike_of_short_requests_does_not_fill_the_pool(make_pool, primary, app):
    """5 idle, 50 requests of 2 ms, a connect of 150 ms: what is planned is asked again."""

    def slow(connection):
        time.sleep(0.15)

    pool = make_pool(max_size=20, configure=slow, kwargs={"application_name": app})
    fill(pool, 5)

    def request():
        with pool.acquire() as connection:
            connection.execute("SELECT pg_sleep(0.002)")

    calls = [Call(request) for _ in range(50)]
    for call in calls:
        call.result()
    wait_until(lambda: not pool.stats().connecting)
    assert pool.stats().size <= 8
    assert_adds_up(pool, primary, app)


@pytest.mark.core
def test_the_maximum_holds_on_the_server(make_pool, primary, app):
    pool = make_pool(max_size=4, num_workers=8, timeout=30.0, kwargs={"application_name": app})
    over, most = threading.Event(), [0]

    def watch():
        with primary.connect() as connection:
            while not over.is_set():
                [count] = connection.execute(
                    "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s", (app,)
                ).fetchone() or (0,)
                most[0] = max(most[0], count)

    def work():
        for _ in range(20):
            with pool.acquire() as connection:
                connection.execute("SELECT 1")

    watcher = Call(watch)
    calls = [Call(work) for _ in range(16)]
    for call in calls:
        call.result(30.0)
    over.set()
    watcher.result()
    assert 0 < most[0] <= 4
    assert pool.stats().connects <= 4
    assert_adds_up(pool, primary, app)


@pytest.mark.core
class TestMinimum:
    def test_it_is_filled_when_the_pool_opens(self, make_pool, primary, app):
        pool = make_pool(min_size=3, max_size=5, kwargs={"application_name": app})
        assert pool.stats().size == 0
        pool.open(wait=True, timeout=5.0)
        assert pool.stats().idle == 3
        assert_adds_up(pool, primary, app)

    def test_it_is_filled_up_again(self, make_pool, primary, app):
        pool = make_pool(min_size=3, max_size=3, kwargs={"application_name": app})
        pool.open(wait=True, timeout=5.0)
        pool.acquire().discard()
        wait_until(lambda: pool.stats().idle == 3)
        primary.kill_backends(app)
        pool.acquire().release()
        wait_until(lambda: pool.stats().idle == 3)
        assert_adds_up(pool, primary, app)

    def test_it_is_kept_while_all_are_leased(self, make_pool):
        pool = make_pool(min_size=2, max_size=5)
        leases = [pool.acquire() for _ in range(3)]
        wait_until(lambda: not pool.stats().connecting)
        assert pool.stats().size == 3
        for lease in leases:
            lease.release()

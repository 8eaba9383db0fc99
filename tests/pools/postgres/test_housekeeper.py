"""What becomes of idle connections as time goes by."""

from __future__ import annotations

import threading
from time import monotonic
from types import SimpleNamespace
from typing import Any

import pytest

from django_poolkit.pools.config import PoolConfig
from django_poolkit.pools.postgres import housekeeper, probe
from django_poolkit.testing.waiting import wait_until
from tests.pools.support import assert_adds_up, fill, idle_pids, pid

NOW = 1000.0


def idle(age=0.0, expires=1e9, heard=None):
    return SimpleNamespace(
        _idle_since=NOW - age,
        _used_at=NOW - (age if heard is None else heard),
        _expire_at=expires,
    )


def inspect(
    connections, *, min_size=0, size=None, max_size=10, replacing=0, connecting=0, **options
):
    size = len(connections) + replacing if size is None else size
    return housekeeper.inspect(
        connections,
        config=PoolConfig(**{"max_idle": 60.0, **options}),
        min_size=min_size,
        size=size,
        room=max(0, max_size - size),
        replacing=replacing,
        connecting=max(connecting, replacing),
        now=NOW,
    )


class TestRound:
    def test_the_young_and_used_stay(self):
        found = inspect([idle(), idle(59.0)])
        assert (found.retire, found.replace, found.probe) == ([], 0, [])

    def test_what_has_been_idle_for_too_long_goes(self):
        old, young = idle(61.0), idle(1.0)
        assert inspect([old, young]).retire == [(old, "max_idle")]

    def test_but_not_below_the_minimum(self):
        connections = [idle(61.0) for _ in range(4)]
        assert len(inspect(connections, min_size=3).retire) == 1
        assert inspect(connections, min_size=4).retire == []
        assert inspect(connections, min_size=4).replace == 0

    def test_what_is_leased_counts_for_the_minimum(self):
        assert len(inspect([idle(61.0)], min_size=1, size=2).retire) == 1

    def test_what_is_too_old_goes(self):
        old = idle(expires=NOW)
        assert inspect([old]).retire == [(old, "max_lifetime")]

    def test_at_the_minimum_it_is_replaced_first(self):
        found = inspect([idle(expires=NOW), idle(expires=NOW), idle()], min_size=3)
        assert found.retire == []
        assert found.replace == 2

    def test_it_goes_when_its_replacement_has_come(self):
        old = idle(expires=NOW)
        found = inspect([old, idle(), idle()], min_size=2)
        assert found.retire == [(old, "max_lifetime")]
        assert found.replace == 0

    def test_no_more_replacements_than_there_is_room(self):
        found = inspect([idle(expires=NOW) for _ in range(5)], min_size=5, max_size=7)
        assert (found.replace, found.retire) == (2, [])

    def test_replacements_under_way_are_not_planned_again(self):
        found = inspect([idle(expires=NOW), idle(expires=NOW)], min_size=2, replacing=2)
        assert (found.replace, found.retire) == (0, [])

    def test_without_room_one_goes_first(self):
        connections = [idle(expires=NOW) for _ in range(3)]
        found = inspect(connections, min_size=3, max_size=3)
        assert found.retire == [(connections[0], "max_lifetime")]

    def test_without_room_none_goes_before_the_last_is_replaced(self):
        connections = [idle(expires=NOW) for _ in range(3)]
        found = inspect(connections, min_size=4, size=4, max_size=4, connecting=1)
        assert (found.retire, found.replace) == ([], 0)

    def test_without_room_the_idle_stay_at_the_minimum(self):
        assert inspect([idle(61.0)], min_size=1, max_size=1).retire == []

    def test_what_was_not_heard_of_is_probed(self):
        quiet, heard = idle(5.0, heard=5.0), idle(5.0, heard=1.0)
        assert inspect([quiet, heard], keepalive=2.0).probe == [quiet]
        assert inspect([quiet, heard]).probe == []

    def test_a_probe_does_not_make_it_young(self):
        probed = idle(61.0, heard=0.5)
        assert inspect([probed], keepalive=2.0).retire == [(probed, "max_idle")]


class TestTimes:
    def test_lifetimes_are_spread_over_a_fifth_at_least(self):
        lifetimes = [housekeeper.lifetime(100.0) for _ in range(50)]
        assert max(lifetimes) - min(lifetimes) >= 20.0
        assert min(lifetimes) >= 75.0
        assert max(lifetimes) <= 100.0

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            ({}, 30.0),
            ({"max_idle": 4.0}, 1.0),
            ({"max_lifetime": 2.0}, 0.5),
            ({"keepalive": 8.0}, 2.0),
            ({"leak_after": 6.0}, 1.5),
            ({"max_idle": 0.001}, 0.05),
            ({"max_idle": float("inf"), "max_lifetime": float("inf")}, 30.0),
        ],
    )
    def test_rounds_come_often_enough(self, options, expected):
        assert housekeeper.interval(PoolConfig(**options)) == expected

    @pytest.mark.parametrize(
        ("expiries", "expected"),
        [([], 30.0), ([90.0, 12.0], 12.0), ([90.0], 30.0), ([1.0], 3.0), ([-5.0, 20.0], 3.0)],
    )
    def test_the_next_round_comes_when_the_first_has_had_its_time(self, expiries, expected):
        connections = [idle(expires=NOW + seconds) for seconds in expiries]
        assert housekeeper.next_round(PoolConfig(), connections, NOW) == expected


def test_an_idle_connection_is_replaced_when_its_life_is_over(make_pool, primary, app):
    """While it is idle, and its replacement first: the pool is never below its minimum."""
    pool = make_pool(min_size=2, max_size=4, max_lifetime=0.6, kwargs={"application_name": app})
    pool.open(wait=True, timeout=5.0)
    first, least = set(idle_pids(pool)), [2]

    def all_replaced():
        least[0] = min(least[0], pool.stats().idle)
        return not first & set(idle_pids(pool)) and pool.stats().idle >= 2

    wait_until(all_replaced, 5.0, interval=0.001)
    assert least == [2]
    assert pool.stats().closed["max_lifetime"] >= 2
    pool.close()
    assert_adds_up(pool, primary, app)


def test_one_in_use_is_not_cut_when_its_life_is_over(make_pool):
    pool = make_pool(max_size=2, max_lifetime=0.2)
    lease = pool.acquire()
    other = pool.acquire()
    other.release()
    wait_until(lambda: pool.stats().closed.get("max_lifetime") == 1)
    connection = lease.connection
    wait_until(lambda: connection._expire_at < monotonic())  # lifetimes are spread
    assert connection.execute("SELECT 1").fetchone() == (1,)
    lease.release()
    assert connection.closed
    assert pool.stats().closed == {"max_lifetime": 2}


def test_they_are_replaced_one_by_one_where_all_are_needed(make_pool):
    """Whether they come home, or are idle; up to the time that is the longest for all."""
    may_connect, patience = threading.Event(), 5.0
    may_connect.set()

    def configure(connection: Any) -> None:
        assert may_connect.wait(patience * 2)

    pool = make_pool(min_size=4, max_size=4, max_lifetime=600.0, configure=configure)
    pool.open(wait=True, timeout=patience)
    may_connect.clear()
    leases = [pool.acquire() for _ in range(4)]
    for lease in leases:
        lease.connection._expire_at = 0.0
    first, second, third, fourth = (lease.connection for lease in leases)
    leases[0].release()
    leases[1].release()
    assert (first.closed, second.closed) == (True, False)
    leases[2].connection._created_at -= 600.0
    leases[2].release()
    assert third.closed
    pool.keep_house()
    assert idle_pids(pool) == [second.info.backend_pid]
    may_connect.set()
    wait_until(lambda: pool.stats().idle == 3, patience)
    leases[3].release()
    assert fourth.closed
    wait_until(lambda: pool.stats().idle == 4, patience)
    pool.keep_house()
    assert second.closed
    wait_until(lambda: pool.stats().idle == 4, patience)
    assert pool.stats().closed == {"max_lifetime": 4}


def test_a_pool_that_was_full_shrinks_to_its_minimum(make_pool, primary, app):
    pool = make_pool(min_size=1, max_size=6, max_idle=0.3, kwargs={"application_name": app})
    fill(pool, 6)
    wait_until(lambda: pool.stats().size == 1, 5.0)
    assert pool.stats().closed == {"max_idle": 5}
    assert_adds_up(pool, primary, app)


def test_the_hot_connection_is_the_one_that_stays(make_pool):
    pool = make_pool(max_size=4, max_idle=0.4)
    pids = fill(pool, 4)

    def shrunk():
        with pool.acquire() as connection:
            assert connection.info.backend_pid == pids[-1]
        return pool.stats().size == 1

    wait_until(shrunk, 5.0)


class TestKeepalive:
    def test_it_probes_what_is_idle(self, far_pool, proxy):
        pool = far_pool(max_size=2, keepalive=0.2)
        fill(pool, 2)
        before = proxy.round_trips
        wait_until(lambda: proxy.round_trips >= before + 4, 5.0)
        assert pool.stats().closed == {}

    def test_it_drops_what_does_not_answer(self, far_pool, proxy):
        pool = far_pool(max_size=2, keepalive=0.1, probe_timeout=0.2)
        fill(pool, 2)
        proxy.stall()
        wait_until(lambda: pool.stats().closed == {"silent": 2}, 5.0)
        proxy.resume()

    def test_it_keeps_a_servers_timeout_from_striking(self, make_pool):
        pool = make_pool(max_size=1, keepalive=0.2, idle_session_timeout="700ms")
        [first] = fill(pool, 1)
        connection = pool._pool[0]
        born = connection._idle_since
        # Heard of, three times over what the server allows, and never acquired.
        wait_until(lambda: connection._used_at - born > 2.1, 5.0)
        assert idle_pids(pool) == [first]
        assert pool.stats().closed == {}

    def test_without_it_a_servers_timeout_costs_no_error(self, make_pool):
        pool = make_pool(max_size=1, idle_session_timeout="100ms", max_idle=1000.0)
        [first] = fill(pool, 1)
        wait_until(lambda: not probe.quiet(pool._pool[0]))
        with pool.acquire() as connection:
            assert connection.info.backend_pid != first

    def test_it_is_no_use_and_keeps_nothing_from_shrinking(self, make_pool):
        pool = make_pool(max_size=3, keepalive=0.05, max_idle=0.6)
        fill(pool, 3)
        before = pool.stats()
        wait_until(lambda: pool.stats().size == 0, 5.0)
        after = pool.stats()
        assert after.closed == {"max_idle": 3}
        assert (after.acquired, after.use.count) == (before.acquired, before.use.count)

    def test_it_leaves_the_order_as_it_is(self, far_pool, proxy):
        """The one that is asked is the one idle the longest, and not hot for having answered."""
        pool = far_pool(max_size=3)
        pids = fill(pool, 3)
        for connection in (pool._pool[0], pool._pool[1]):
            before = proxy.round_trips
            pool._ping_idle(connection)
            assert proxy.round_trips == before + 1
            assert idle_pids(pool) == pids
        lease = pool.acquire()
        assert pid(lease) == pids[-1]
        lease.release()


def test_what_died_is_found_in_passing(make_pool, primary, app):
    pool = make_pool(max_size=2, max_idle=0.8, min_size=2, kwargs={"application_name": app})
    pool.open(wait=True, timeout=5.0)
    primary.kill_backends(app)
    wait_until(lambda: pool.stats().closed.get("dead") == 2, 5.0)
    wait_until(lambda: pool.stats().idle == 2, 5.0)
    assert_adds_up(pool, primary, app)

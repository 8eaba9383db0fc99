"""Who can go elsewhere is turned away by a server that refuses; who cannot waits as before."""

from __future__ import annotations

import pickle
import time

import psycopg
import pytest

from django_poolkit.pools.errors import PoolError
from django_poolkit.pools.postgres.errors import PoolTimeout, ServerRefuses
from django_poolkit.testing.faults import TCPProxy
from django_poolkit.testing.waiting import wait_until
from tests.pools.support import Call, fill


@pytest.fixture
def proxy(primary):
    with TCPProxy(primary.host, primary.port) as proxy:
        yield proxy


@pytest.fixture
def pool(make_pool, proxy):
    place = {"host": proxy.host, "port": proxy.port, "sslmode": "disable", "gssencmode": "disable"}
    return make_pool(max_size=2, timeout=10.0, kwargs=place)


def timed(function):
    started = time.monotonic()
    with pytest.raises(ServerRefuses) as caught:
        function()
    return caught.value, time.monotonic() - started


def test_patience_costs_nothing_where_a_connection_is_had(pool):
    for _ in range(3):
        pool.acquire(patience=0.1).release()
    assert pool.stats().acquired == 3


def test_a_server_that_refuses_ends_it(pool, proxy):
    proxy.refuse()
    error, seconds = timed(lambda: pool.acquire(patience=5.0))
    assert seconds < 2.0
    assert error.reason.startswith("last connect error: OperationalError")
    assert str(error) == f"pool {pool.name!r}: {error.reason}"
    assert isinstance(error, (PoolError, psycopg.OperationalError))
    stats = pool.stats()
    assert (stats.waiters, stats.used, stats.timeouts, stats.size) == (0, 0, 0, 0)


def test_the_error_pickles(pool, proxy):
    proxy.refuse()
    error, _ = timed(lambda: pool.acquire(patience=5.0))
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.reason, copy.pool) == (str(error), error.reason, error.pool)


def test_each_of_them_tries_again_where_nobody_else_does(pool, proxy):
    proxy.refuse()
    for _ in range(3):
        timed(lambda: pool.acquire(patience=5.0))
    assert pool.stats().connect_errors == 3
    proxy.accept()
    pool.acquire(patience=5.0).release()


def test_a_silent_server_ends_it_after_that_time(pool, proxy):
    proxy.stall()
    error, seconds = timed(lambda: pool.acquire(patience=0.4))
    assert 0.4 <= seconds < 2.0
    assert error.reason.startswith("a connect has had no answer for 0.")
    error, seconds = timed(lambda: pool.acquire(patience=0.4))
    assert seconds < 0.2, "its connect is under way, and nobody waits for another"
    assert pool.stats().waiters == 0


def test_it_tells_whether_there_is_no_need_to_try(pool, proxy):
    assert not pool.refusing
    proxy.refuse()
    timed(lambda: pool.acquire(patience=5.0))
    timed(lambda: pool.acquire(patience=5.0))
    assert pool.refusing
    wait_until(lambda: not pool.refusing, message="it is never tried again")
    proxy.accept()
    proxy.stall()
    trying = Call(pool.acquire, patience=5.0)
    wait_until(lambda: pool.stats().waiters == 1, message="nobody tries")
    assert pool.refusing
    assert pool.last_refusal.startswith("last connect error: OperationalError")
    proxy.resume()
    lease = trying.result()
    assert not pool.refusing
    waiting = [Call(pool.acquire) for _ in range(2)]
    wait_until(lambda: pool.stats().waiters > 0, message="nobody waits")
    assert not pool.refusing
    lease.release()
    for call in waiting:
        call.result().release()


def test_who_has_none_waits_as_before(pool, proxy):
    proxy.refuse()
    waiting = Call(pool.acquire)
    wait_until(lambda: pool.stats().connect_errors > 0, message="no connect")
    timed(lambda: pool.acquire(patience=5.0))
    assert pool.stats().waiters == 1
    proxy.accept()
    waiting.result().release()


def test_connections_that_are_all_leased_are_waited_for(pool):
    fill(pool, 2)
    leases = [pool.acquire(), pool.acquire()]
    started = time.monotonic()
    with pytest.raises(PoolTimeout):
        pool.acquire(timeout=0.6, patience=0.1)
    assert time.monotonic() - started >= 0.6
    waiting = Call(pool.acquire, patience=0.1)
    wait_until(lambda: pool.stats().waiters == 1, message="nobody waits")
    leases.pop().release()
    waiting.result().release()
    leases.pop().release()


def test_while_all_connects_take_a_pause_nobody_waits_for_its_end(make_pool, proxy):
    place = {"host": proxy.host, "port": proxy.port, "sslmode": "disable", "gssencmode": "disable"}
    pool = make_pool(min_size=1, max_size=2, timeout=10.0, kwargs=place)
    proxy.refuse()
    pool.open()
    wait_until(
        lambda: pool.stats().connect_errors >= 4 and pool._growth.asleep(), message="no pause"
    )
    before = pool.stats().connect_errors
    _, seconds = timed(lambda: pool.acquire(patience=5.0))
    assert seconds < 0.2, "the pause is 0.8 s by now, and has not been cut short"
    assert pool.stats().connect_errors == before + 1
    _, seconds = timed(lambda: pool.acquire(patience=5.0))
    assert seconds < 0.9, "the pause is 1.6 s by now, and has been waited for"


def test_a_paused_pool_turns_away_at_once(pool):
    pool.pause(30.0)
    error, seconds = timed(lambda: pool.acquire(patience=5.0))
    assert (error.reason, seconds < 0.2) == ("it is paused", True)


def test_a_pause_ends_what_waits(pool):
    fill(pool, 2)
    leases = [pool.acquire(), pool.acquire()]
    waiting = Call(pool.acquire, patience=5.0)
    wait_until(lambda: pool.stats().waiters == 1, message="nobody waits")
    pool.pause(30.0)
    with pytest.raises(ServerRefuses, match="it is paused"):
        waiting.result()
    for lease in leases:
        lease.release()


def test_a_connection_that_died_ends_it_as_well(pool, proxy):
    pool.acquire(patience=1.0).release()
    proxy.refuse()
    proxy.drop()
    timed(lambda: pool.acquire(patience=5.0))

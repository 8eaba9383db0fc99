"""Each error is ours and psycopg_pool's (or psycopg's) at the same time."""

from __future__ import annotations

import copy
import pickle

import psycopg
import psycopg_pool
import pytest

from django_poolkit.pools import errors as ours
from django_poolkit.pools.postgres import errors
from tests.pools.support import make_stats

pytestmark = pytest.mark.core

FAMILY = {
    errors.PoolClosed: (ours.PoolClosed, psycopg_pool.PoolClosed, psycopg.OperationalError),
    errors.PoolTimeout: (
        ours.PoolTimeout, psycopg_pool.PoolTimeout, psycopg.OperationalError, TimeoutError,
    ),
    errors.PoolPaused: (ours.PoolPaused, psycopg_pool.PoolTimeout, psycopg.OperationalError),
    errors.TooManyWaiters: (
        ours.TooManyWaiters, psycopg_pool.TooManyRequests, psycopg.OperationalError,
    ),
    errors.LeaseReleased: (ours.LeaseReleased, psycopg.InterfaceError),
}  # fmt: skip


@pytest.mark.parametrize("kind", FAMILY)
def test_whoever_caught_the_drivers_error_catches_ours(kind):
    for parent in (ours.PoolError, *FAMILY[kind]):
        assert issubclass(kind, parent)


@pytest.mark.parametrize("kind", FAMILY)
@pytest.mark.parametrize("through", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy])
def test_it_keeps_its_attributes(kind, through):
    error = kind("the text", pool="orders", stats=make_stats(waiters=4))
    error.waited = 0.5
    other = through(error)
    assert type(other) is kind
    assert (str(other), other.pool, other.waited) == ("the text", "orders", 0.5)
    assert other.stats.waiters == 4
    assert other.sqlstate is None


def test_one_from_a_pool_crosses_a_process_border(make_pool):
    pool = make_pool(max_size=1, name="orders")
    with pool.acquire(), pytest.raises(errors.PoolTimeout) as caught:
        pool.acquire(timeout=0.05)
    other = pickle.loads(pickle.dumps(caught.value))
    assert str(other) == str(caught.value)
    assert other.pool == "orders"
    assert other.stats.used == 1
    assert 0.05 <= other.waited < 1.0

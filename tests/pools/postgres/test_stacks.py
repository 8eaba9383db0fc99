"""Of which leases the acquiring stack is remembered."""

from __future__ import annotations

import pytest

from django_poolkit.pools.config import PoolConfig
from django_poolkit.pools.errors import PoolConfigError
from django_poolkit.pools.postgres import resting

pytestmark = pytest.mark.core


def remembered(pool, count=50):
    found = 0
    for _ in range(count):
        with pool.acquire():
            [lease] = pool.leases()
            assert not lease.stack or any("remembered" in line for line in lease.stack)
            found += bool(lease.stack)
    return found


def test_sampled_ones_have_a_pause_between_them(make_pool, monkeypatch):
    monkeypatch.setattr(resting, "_STACK_INTERVAL", 60.0)
    assert remembered(make_pool(max_size=1)) == 1
    monkeypatch.setattr(resting, "_STACK_INTERVAL", 0.0)
    assert remembered(make_pool(max_size=1)) == 50


def test_where_leaks_are_looked_for_it_is_all(make_pool):
    assert remembered(make_pool(max_size=1, leak_after=60.0)) == 50


def test_all_and_none(make_pool):
    assert remembered(make_pool(max_size=1, stacks="all")) == 50
    assert remembered(make_pool(max_size=1, stacks="none", leak_after=60.0)) == 0


def test_a_leak_without_a_stack_says_how_to_get_one(make_pool):
    pool = make_pool(max_size=1, stacks="none")
    pool.acquire()
    with pytest.warns(match="Its stack was not taken: set the option stacks to 'all'"):
        pool.acquire().release()


def test_another_word_is_refused():
    with pytest.raises(PoolConfigError, match=r"pool\['stacks'\] must be 'all' or 'sampled' or"):
        PoolConfig.from_options({"stacks": "some"})

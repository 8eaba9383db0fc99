"""What an operator does to a pool that nobody else uses at the moment."""

from __future__ import annotations

import pytest

from django_poolkit.testing.waiting import wait_until

pytestmark = [
    pytest.mark.core,
    # Said by a worker here, where nobody could catch it.
    pytest.mark.filterwarnings("ignore:.*dropped without being released:UserWarning"),
]

# Far below the round of the housekeeper, who would come in the end.
SOON = 10.0


def nothing_leased(pool):
    wait_until(lambda: pool.stats().used == 0, SOON, "it waits for a lease that nobody has")
    assert pool.stats().leaks == 1


@pytest.mark.parametrize("order", ["pause", "recycle"])
def test_a_lease_that_was_dropped_before_is_taken_home_at_once(make_pool, order):
    pool = make_pool(max_size=2)
    lease = pool.acquire()
    del lease
    assert pool.stats().used == 1
    getattr(pool, order)()
    nothing_leased(pool)


def test_one_that_is_dropped_in_a_pause_is_taken_home_in_it(make_pool):
    pool = make_pool(max_size=2)
    lease = pool.acquire()
    for _ in range(2):
        pool.pause()
    del lease
    nothing_leased(pool)
    assert pool.stats().state == "paused"
    pool.resume()
    pool.acquire().release()

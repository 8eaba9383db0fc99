"""The simulated queue, held against what is known of queues."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable

import pytest

from django_poolkit.pools import sizing
from django_poolkit.pools.queueing import LEAST, MOST, Load, Prediction, Queue, jobs, serve
from django_poolkit.pools.sizing import UseTimes

MEAN = 0.02


def load(offered: float, *, mean: float = MEAN, held: int = 0) -> Load:
    """So many connections' worth of work, all the time."""
    asked = ((60.0, offered / mean),)
    return Load(asked=asked, use=UseTimes.exponential(mean), held=held)


def simulate(
    loads: list[Load], sizes: Iterable[int], *, timeout: float, threads: int | None = None
) -> list[Prediction]:
    queue = Queue(loads, timeout=timeout, threads=threads)
    return [queue.at(size) for size in sizes]


def one(offered: float, size: int, *, timeout: float = 1000.0) -> Prediction:
    [found] = simulate([load(offered)], [size], timeout=timeout)
    return found


@pytest.mark.parametrize(("size", "offered"), [(1, 0.5), (2, 1.5), (4, 2.0), (10, 8.0), (30, 24.0)])
def test_by_chance_and_with_exponential_times_it_is_erlangs_queue(
    size: int, offered: float
) -> None:
    # 40,000 callers who wait for each other are worth far fewer that do not; and the times come
    # from buckets. Over other seeds the p99 was found to be 5 % below to 20 % above.
    found = one(offered, size)
    assert found.queued == pytest.approx(sizing.erlang_c(size, offered), rel=0.15)
    expected = sizing.erlang_wait(size, offered, MEAN, 0.99)
    assert found.p99 == pytest.approx(expected, rel=0.3, abs=0.003)
    assert found.utilization == pytest.approx(offered / size, rel=0.05)


def test_equal_times_wait_half_as_long_as_exponential_ones() -> None:
    # Pollaczek and Khinchine: half, with one server. An equal time is made of jobs of its own:
    # a histogram does not know that all in a bucket were one.
    chance, now, made = random.Random(1), 0.0, []
    for _ in range(LEAST):
        now += chance.expovariate(0.8 / MEAN)
        made.append((now, MEAN))
    found = serve(made, 1, timeout=1000.0)
    assert found.mean == pytest.approx(0.8 * MEAN / (2 * 0.2), rel=0.15)


def test_those_who_come_one_by_one_do_not_wait() -> None:
    made = [(float(n), 0.9) for n in range(100)]
    found = serve(made, 1, timeout=5.0)
    assert (found.queued, found.p99, found.mean) == (0.0, 0.0, 0.0)
    assert found.utilization == pytest.approx(0.9, rel=0.02)


def test_waits_are_counted_by_hand() -> None:
    # Two connections. The third waits for the first to end, at 1.0; the fourth for the second.
    made = [(0.0, 1.0), (0.0, 2.0), (0.5, 5.0), (0.5, 1.0)]
    found = serve(made, 2, timeout=5.0)
    assert found.queued == 0.5
    assert (found.p50, found.p99) == (0.0, 1.5)
    assert found.mean == pytest.approx((0.5 + 1.5) / 4)


def test_who_gives_up_takes_no_connection() -> None:
    made = [(0.0, 2.0), (0.5, 100.0), (1.5, 0.5)]
    found = serve(made, 1, timeout=1.0)
    assert found.timeouts == pytest.approx(1 / 3)  # the second; the third waits for 0.5
    assert found.p99 == 1.0
    assert found.mean == pytest.approx((1.0 + 0.5) / 3)


def test_more_work_than_connections_ends_in_timeouts() -> None:
    found = one(8.0, 4, timeout=0.5)
    assert found.timeouts == pytest.approx(0.5, abs=0.05)  # of twice the work the half
    assert found.p99 == 0.5
    assert found.utilization == pytest.approx(1.0, abs=0.02)


def test_a_larger_pool_is_never_slower() -> None:
    found = simulate([load(6.0)], range(1, 20), timeout=5.0)
    p99 = [each.p99 for each in found]
    assert p99 == sorted(p99, reverse=True)
    assert [each.size for each in found] == list(range(1, 20))


def test_the_same_load_gets_the_same_answer() -> None:
    assert one(6.0, 8) == one(6.0, 8)


def test_rates_are_followed_through_the_stretches() -> None:
    # As much on average, but all of it in a tenth of the time.
    steady = Load(asked=((60.0, 100.0),), use=UseTimes.exponential(MEAN))
    uneven = Load(asked=((54.0, 0.0), (6.0, 1000.0)), use=UseTimes.exponential(MEAN))
    assert uneven.rate == pytest.approx(steady.rate)
    assert uneven.busiest == 1000.0
    assert uneven.offered == pytest.approx(2.0)
    calm, busy = (simulate([each], [5], timeout=5.0)[0] for each in (steady, uneven))
    assert calm.p99 < 0.05 < 1.0 < busy.p99


@pytest.mark.parametrize("rate", [0.5, 100.0, 5000.0])
def test_about_as_many_are_simulated_whatever_the_rate(rate: float) -> None:
    made = jobs([Load(asked=((30.0, rate), (30.0, 2 * rate)), use=UseTimes.exponential(0.001))])
    assert 0.9 * LEAST < len(made) < 1.1 * MOST
    assert made == sorted(made)


def test_two_loads_meet_in_one_queue() -> None:
    both = simulate([load(2.0), load(4.0)], [8], timeout=5.0)[0]
    whole = simulate([load(6.0)], [8], timeout=5.0)[0]
    assert both.queued == pytest.approx(whole.queued, rel=0.15)


def test_nothing_waits_where_nobody_comes() -> None:
    idle = Load(asked=((60.0, 0.0),), use=UseTimes.exponential(MEAN))
    [found] = simulate([idle], [1], timeout=5.0)
    assert (found.acquires, found.p99, found.utilization) == (0, 0.0, 0.0)
    assert Queue([idle], timeout=5.0).smallest(0.05) == 1


def test_what_is_held_all_the_time_is_no_use_to_others() -> None:
    [free] = simulate([load(3.0)], [5], timeout=5.0)
    tight, none = simulate([load(3.0, held=4)], [9, 4], timeout=5.0)
    assert (tight.queued, tight.p99) == (free.queued, free.p99)
    assert tight.utilization == pytest.approx((4 + 3) / 9, rel=0.05)
    assert (none.timeouts, none.p99, none.queued) == (1.0, 5.0, 1.0)


def test_no_more_wait_than_there_are_threads() -> None:
    [open_, bounded, equal] = [
        simulate([load(4.0)], [4], timeout=5.0, threads=threads)[0] for threads in (None, 6, 4)
    ]
    assert equal.p99 == 0.0  # each thread has a connection
    assert 0.0 < bounded.p99 < open_.p99


def test_the_smallest_size_that_keeps_the_target_is_found() -> None:
    target = 0.01
    size = Queue([load(6.0)], timeout=5.0).smallest(target)
    assert size is not None
    below, at = simulate([load(6.0)], [size - 1, size], timeout=5.0)
    assert below.p99 > target >= at.p99
    # The same as Erlang's, or one off.
    exact = next(n for n in range(7, 99) if sizing.erlang_wait(n, 6.0, MEAN, 0.99) <= target)
    assert abs(size - exact) <= 1


def test_what_is_held_comes_on_top() -> None:
    free = Queue([load(6.0)], timeout=5.0).smallest(0.01)
    held = Queue([load(6.0, held=3)], timeout=5.0).smallest(0.01)
    assert free is not None
    assert held == free + 3


def test_a_target_that_no_size_keeps_is_told() -> None:
    assert Queue([load(50.0)], timeout=5.0).smallest(0.01, most=40) is None
    assert Queue([load(1.0, held=40)], timeout=5.0).smallest(0.01, most=40) is None


def test_the_headroom_is_where_the_target_is_missed() -> None:
    bears = Queue([load(6.0)], timeout=5.0).bears(12, 0.01)
    assert 1.0 < bears < 2.0
    for factor, kept in ((bears, True), (bears + 0.1, False)):
        [found] = simulate([load(6.0).times(factor)], [12], timeout=5.0)
        # Other callers than those it was found with: so near it may be missed by a little.
        assert (found.p99 <= 0.01 * (1.4 if kept else 1)) is kept or found.p99 > 0.006


def test_the_headroom_has_its_ends() -> None:
    assert Queue([load(0.01)], timeout=5.0).bears(20, 0.05) == 10.0
    assert Queue([load(90.0)], timeout=5.0).bears(1, 0.05) == 0.0


def test_a_load_without_time_is_refused() -> None:
    for asked in ((), ((0.0, 1.0),), ((60.0, -1.0),), ((61.0, 1.0), (-1.0, 1.0))):
        with pytest.raises(ValueError, match="needs stretches of time"):
            Load(asked=asked, use=UseTimes.exponential(MEAN))


def test_it_takes_no_time_to_speak_of() -> None:
    began = time.process_time()
    simulate([load(20.0)], range(21, 31), timeout=5.0)
    assert time.process_time() - began < 6.0  # 0.6 s of work, and a machine that may be busy

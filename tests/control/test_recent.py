"""What has happened lately, told from samples."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from django_poolkit import registry
from django_poolkit.control import recent as module
from django_poolkit.control.recent import WINDOW, Recent
from django_poolkit.pools.stats import BUCKETS, Histogram, PoolStats
from tests.pools.support import make_stats


class Pool:
    """A pool whose figures are made up."""

    def __init__(self) -> None:
        self.acquired = self.waited = self.timeouts = self.refused = 0
        self.wait, self.use = Histogram(), Histogram()

    def lease(self, count: int, *, wait: float = 0.0, use: float = 0.001) -> None:
        for _ in range(count):
            self.acquired += 1
            if wait:
                self.waited += 1
                self.wait.observe(wait)
            self.use.observe(use)

    def stats(self) -> PoolStats:
        return make_stats(
            acquired=self.acquired, waited=self.waited, timeouts=self.timeouts,
            too_many_waiters=self.refused,
            wait=self.wait.snapshot(), use=self.use.snapshot(),
        )  # fmt: skip


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(module, "monotonic", lambda: clock.now)
    return clock


@pytest.fixture
def pool(monkeypatch, clock) -> Pool:
    pool = Pool()
    monkeypatch.setattr(registry, "pools", [pool])
    monkeypatch.setattr(registry, "process", SimpleNamespace(age=3.0))
    return pool


def of(recent: Recent, pool: Any) -> dict[str, Any]:
    return recent.of(pool, pool.stats())


def test_before_the_first_sample_it_is_all_that_the_process_did(pool):
    pool.lease(6)
    found = of(Recent(), pool)
    assert found["seconds"] == 3.0
    assert found["acquires_per_second"] == 2.0


def test_rates_are_those_since_the_oldest_sample(pool, clock):
    recent = Recent()
    pool.lease(1000)
    pool.timeouts = 5
    recent.sample()
    clock.now += 10.0
    pool.lease(30)
    pool.timeouts += 1
    recent.sample()
    clock.now += 10.0
    pool.lease(10)
    found = of(recent, pool)
    assert found["seconds"] == 20.0
    assert found["acquires_per_second"] == 2.0
    assert found["timeouts_per_second"] == 0.05
    assert found["use"]["count"] == 40


def test_what_is_older_than_the_window_is_forgotten(pool, clock):
    recent = Recent()
    pool.lease(1000, use=20.0)
    for _ in range(20):
        recent.sample()
        clock.now += 5.0
    pool.lease(10, use=0.002)
    found = of(recent, pool)
    assert 50.0 <= found["seconds"] <= WINDOW
    assert found["use"]["count"] == 10
    assert found["use"]["p99"] == 0.0025


def test_what_was_asked_for_is_told_for_each_stretch_in_vain_or_not(pool, clock):
    recent = Recent()
    recent.sample()
    for count, lost in ((10, 0), (40, 5)):
        clock.now += 5.0
        pool.lease(count)
        pool.timeouts += lost
        pool.refused += lost
        recent.sample()
    clock.now += 2.0
    pool.lease(6)
    assert of(recent, pool)["asked"] == [(5.0, 2.0), (5.0, 10.0), (2.0, 3.0)]


def test_a_stretch_too_short_for_a_rate_goes_with_the_one_beside_it(pool, clock):
    recent = Recent()
    recent.sample()
    clock.now += 0.25
    pool.lease(5)
    recent.sample()
    clock.now += 3.75
    pool.lease(15)
    recent.sample()
    clock.now += 0.5
    pool.lease(7)
    assert of(recent, pool)["asked"] == [(4.5, 6.0)]


def test_before_the_first_sample_there_is_one_stretch(pool):
    pool.lease(6)
    assert of(Recent(), pool)["asked"] == [(3.0, 2.0)]


def test_the_stretches_are_as_many_as_samples_fit_into_the_window(pool, clock):
    recent = Recent()
    for _ in range(100):
        recent.sample()
        clock.now += 5.0
    assert len(of(recent, pool)["asked"]) <= WINDOW / 5.0


def test_the_seconds_that_were_held_in_the_window_are_told(pool, clock):
    recent = Recent()
    pool.lease(3, use=2.0)
    recent.sample()
    clock.now += 5.0
    pool.lease(4, wait=0.5, use=0.25)
    found = of(recent, pool)
    assert (found["use"]["sum"], found["wait"]["sum"]) == (1.0, 2.0)


def test_who_did_not_queue_waited_no_time(pool):
    pool.lease(95)
    pool.lease(5, wait=0.2)
    wait = of(Recent(), pool)["wait"]
    assert wait["count"] == 100
    assert (wait["p50"], wait["p95"], wait["p99"]) == (BUCKETS[0], BUCKETS[0], 0.25)
    assert sum(wait["counts"]) == 100


def test_a_quantile_of_nothing_and_one_beyond_the_buckets_are_none(pool):
    assert of(Recent(), pool)["use"] == {
        "count": 0, "counts": (0,) * (len(BUCKETS) + 1), "sum": 0.0,
        "p50": None, "p95": None, "p99": None,
    }  # fmt: skip
    pool.lease(1, use=31.0)
    use = of(Recent(), pool)["use"]
    assert (use["count"], use["p50"]) == (1, None)


def test_an_acquire_taken_back_makes_nothing_negative(pool, clock):
    recent = Recent()
    pool.lease(10)
    recent.sample()
    clock.now += 1.0
    pool.acquired -= 1
    found = of(recent, pool)
    assert found["acquires_per_second"] == 0.0
    assert found["wait"]["count"] == 0


def test_a_pool_that_is_gone_is_forgotten(pool, clock, monkeypatch):
    recent = Recent()
    recent.sample()
    assert len(recent._samples) == 1
    monkeypatch.setattr(registry, "pools", [])
    del pool
    recent.sample()


def test_a_forked_child_begins_anew(pool):
    recent = Recent()
    recent.sample()
    with recent._lock:
        recent.after_fork()
    assert not recent._samples
    recent.sample()
    assert recent._samples

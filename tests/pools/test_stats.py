"""Histograms and the snapshot."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest

from django_poolkit.pools.stats import BUCKETS, Histogram
from tests.pools.support import make_stats

pytestmark = pytest.mark.core


def observed(*seconds):
    histogram = Histogram()
    for each in seconds:
        histogram.observe(each)
    return histogram.snapshot()


def test_bounds_ascend_and_a_bucket_stands_for_the_rest():
    assert list(BUCKETS) == sorted(set(BUCKETS))
    snapshot = observed()
    assert snapshot.buckets == BUCKETS
    assert len(snapshot.counts) == len(BUCKETS) + 1


def test_a_bound_belongs_to_its_bucket():
    for index, bound in enumerate(BUCKETS):
        assert observed(bound).counts[index] == 1
        assert observed(bound * 1.0001).counts[index + 1] == 1


def test_what_is_beyond_the_last_bound_is_counted():
    snapshot = observed(1e6)
    assert snapshot.counts[-1] == 1
    assert snapshot.quantile(0.5) == math.inf


def test_sum_and_count():
    snapshot = observed(0.5, 1.5, 2.0)
    assert snapshot.count == 3
    assert snapshot.sum == 4.0


def test_a_snapshot_changes_no_more():
    histogram = Histogram()
    before = histogram.snapshot()
    histogram.observe(1.0)
    assert before.count == 0
    assert histogram.snapshot().count == 1


def test_a_quantile_is_the_bound_of_its_bucket():
    snapshot = observed(*[0.0004] * 90, *[0.2] * 9, 7.0)
    assert snapshot.quantile(0.0) == 0.0005
    assert snapshot.quantile(0.9) == 0.0005
    assert snapshot.quantile(0.95) == 0.25
    assert snapshot.quantile(1.0) == 10.0


def test_a_quantile_of_nothing_is_zero():
    assert observed().quantile(0.99) == 0.0


def test_utilization_and_saturation():
    assert make_stats(used=2, max_size=8).utilization == 0.25
    assert not make_stats(used=8, max_size=8).saturated
    assert make_stats(waiters=1).saturated


def test_a_snapshot_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        make_stats().used = 1  # type: ignore[misc]


def test_a_snapshot_is_ready_for_json():
    stats = make_stats(name="orders", closed={"dead": 2}, use=observed(0.3))
    read = json.loads(json.dumps(stats.as_dict()))
    assert read["name"] == "orders"
    assert read["closed"] == {"dead": 2}
    assert read["use"]["sum"] == 0.3
    assert sum(read["use"]["counts"]) == 1


def test_the_summary_says_what_there_is():
    assert make_stats(idle=1).summary() == "used 0/8, idle 1, waiters 0"
    full = make_stats(
        used=8,
        waiters=3,
        connecting=2,
        oldest_lease=1.234,
        last_connect_error="X [57P03]: starting",
    )
    assert full.summary() == (
        "used 8/8, idle 0, connecting 2, waiters 3, oldest lease 1.23 s;"
        " last connect error: X [57P03]: starting"
    )

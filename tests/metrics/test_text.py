"""The text format, as `poolstatus --format prometheus` prints it."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from django_poolkit.metrics.collector import PoolCollector
from django_poolkit.metrics.readings import Readings
from django_poolkit.metrics.text import exposition
from django_poolkit.pools.stats import Histogram, ShareStats
from tests.metrics.support import ScriptedPool, parsed, value
from tests.pools.support import make_stats

pytestmark = pytest.mark.core


def busy(**changes: Any) -> dict[str, Any]:
    """Return the figures of a pool in which much has happened, as JSON would carry them."""
    wait = Histogram()
    for seconds in (0.0004, 0.2, 40.0):
        wait.observe(seconds)
    changes = {
        "acquired": 10,
        "waited": 3,
        "wait": wait.snapshot(),
        "closed": {"dead": 2},
    } | changes
    return make_stats(**changes).as_dict()


def test_processes_are_summed() -> None:
    one = {"pid": 1, "pools": [busy(used=1, size=1, oldest_waiter=1.5), busy(name="reports")]}
    other = {"pid": 2, "pools": [busy(used=3, size=3, oldest_waiter=0.5)]}
    samples = parsed(exposition([one, other]))
    assert value(samples, "poolkit_connections", state="used") == 4
    assert value(samples, "poolkit_connections_max") == 16
    assert value(samples, "poolkit_oldest_waiter_seconds") == 1.5
    assert value(samples, "poolkit_closed_total", reason="dead") == 4
    assert value(samples, "poolkit_acquires_total", pool="reports") == 10
    assert value(samples, "poolkit_wait_seconds_bucket", le="0.0005") == 16
    assert value(samples, "poolkit_wait_seconds_bucket", le="0.25") == 18
    assert value(samples, "poolkit_wait_seconds_bucket", le="+Inf") == 20
    assert value(samples, "poolkit_wait_seconds_count") == 20
    assert value(samples, "poolkit_wait_seconds_sum") == pytest.approx(80.4008)


OF_THE_PROCESS = (
    "poolkit_((collect_errors|floors|primary_losses|routing_decisions|slow_slices)_total|read_only)"
)


def test_it_says_what_prometheus_client_says_of_the_same_pool() -> None:
    pool = ScriptedPool()
    pool.says = make_stats(
        acquired=4, closed={"dead": 1}, pins={"set": 2}, errors={"E": 1},
        lag=0.5, lag_bytes=100, evictions={"lag": 1}, read_retries={"conflict": 1},
        retries={"statement": 2},
        shares={"reports": ShareStats(used=1, max_used=3, waiters=2)},
    )  # fmt: skip
    registry = CollectorRegistry()
    registry.register(PoolCollector(Readings([pool])))  # type: ignore[list-item]
    theirs = generate_latest(registry).decode()
    ours = exposition([{"pools": [pool.says.as_dict()]}])
    assert [line for line in ours.splitlines() if line.startswith("#")] == [
        line
        for line in theirs.splitlines()
        # Of the process, and not of a pool.
        if line.startswith("#") and not re.search(OF_THE_PROCESS, line)
    ]
    expected = parsed(theirs)
    del expected["poolkit_collect_errors_total", frozenset({("pool", "default")})]
    assert parsed(ours) == expected


def test_a_name_cannot_forge_a_sample() -> None:
    name = 'a\\b"} 1\npoolkit_waiters{pool="forged'
    text = exposition([{"pools": [busy(name=name)]}])
    pools = {
        sample.labels["pool"]
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert pools == {name}


def test_without_a_pool_there_is_nothing_to_say() -> None:
    assert exposition([]) == exposition([{"pools": []}]) == ""


def test_it_needs_no_prometheus_client() -> None:
    program = (
        "import sys; sys.modules['prometheus_client'] = None\n"
        "from django_poolkit.metrics.text import exposition; print(repr(exposition([])))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60.0
    )
    assert done.stdout == "''\n", done.stderr

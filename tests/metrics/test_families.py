"""The table of what is measured."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import fields, replace
from typing import Any

import pytest

from django_poolkit.metrics.families import FAMILIES, LE, Family, cumulative, merged
from django_poolkit.pools.stats import Histogram, PoolStats, ShareStats
from tests.pools.support import make_stats

pytestmark = pytest.mark.core

# What a pool says of itself that is no figure, or follows from those that are shown.
NOT_SHOWN = {"name", "aliases", "kind", "mode", "size", "pause_left", "last_connect_error"}


def family(name: str) -> Family:
    [found] = [each for each in FAMILIES if each.name == name]
    return found


def test_the_names_follow_prometheus_rules() -> None:
    assert max(Counter(each.name for each in FAMILIES).values()) == 1
    for each in FAMILIES:
        assert re.fullmatch(r"poolkit(_[a-z]+)+", each.name)
        assert each.name.endswith("_total") == (each.kind == "counter")
        assert each.help.endswith(".")
        assert "\\" not in each.help
        assert "\n" not in each.help
        assert each.across == "sum" or each.kind == "gauge"


def test_no_label_can_name_a_host_or_a_user() -> None:
    assert {label for each in FAMILIES for label in each.labels} == {
        "pool",
        "cluster",
        "outcome",
        "state",
        "reason",
        "kind",
        "share",
        "call",
    }


@pytest.mark.parametrize("name", [f.name for f in fields(PoolStats) if f.name not in NOT_SHOWN])
def test_every_figure_of_a_pool_is_shown(name: str) -> None:
    stats = make_stats(waited=1, acquired=1)
    nothing = getattr(stats, name)
    histogram = Histogram()
    histogram.observe(0.003)
    kinds: dict[type, Any] = {dict: {"why": 3}, str: "paused"}
    something = kinds.get(type(nothing), 3)
    if name in ("wait", "use", "connect"):
        something = histogram.snapshot()
    if name == "shares":
        something = {"reports": ShareStats(used=1, max_used=3, waiters=2)}
    changed = replace(stats, **{name: something})
    assert merged([changed.as_dict()]) != merged([stats.as_dict()])


def test_a_lag_that_nobody_knows_is_no_lag_of_zero() -> None:
    for name in ("poolkit_replica_lag_seconds", "poolkit_replica_lag_bytes"):
        assert merged([make_stats().as_dict()])[family(name)] == {}
    stats = [make_stats(lag=0.0, lag_bytes=0), make_stats(lag=2.5, lag_bytes=None)]
    figures = merged(each.as_dict() for each in stats)
    assert figures[family("poolkit_replica_lag_seconds")] == {("default", ""): (2.5,)}
    assert figures[family("poolkit_replica_lag_bytes")] == {("default", ""): (0,)}


def test_those_who_did_not_queue_are_in_the_waits() -> None:
    wait = Histogram()
    wait.observe(0.2)
    stats = make_stats(acquired=5, waited=1, wait=wait.snapshot())
    [value] = merged([stats.as_dict()])[family("poolkit_wait_seconds")].values()
    assert value == (*stats.waits.counts, stats.waits.sum)
    assert list(cumulative(value)) == [4] * LE.index("0.25") + [5] * (len(LE) - LE.index("0.25"))


def test_figures_of_one_name_are_summed_or_the_highest_of_them() -> None:
    one = make_stats(max_size=4, used=1, size=1, oldest_lease=2.0, acquired=3, closed={"dead": 1})
    other = make_stats(
        max_size=4, used=3, size=3, oldest_lease=9.0, acquired=4, closed={"max_idle": 1}
    )
    foreign = make_stats(name="reports", used=2, size=2)
    figures = merged(stats.as_dict() for stats in (one, other, foreign))
    assert figures[family("poolkit_connections")]["default", "used"] == (4,)
    assert figures[family("poolkit_connections")]["reports", "used"] == (2,)
    assert figures[family("poolkit_oldest_lease_seconds")]["default", ""] == (9.0,)
    assert figures[family("poolkit_utilization_ratio")]["default", ""] == (0.75,)
    assert figures[family("poolkit_acquires_total")]["default", ""] == (7,)
    assert figures[family("poolkit_closed_total")] == {
        ("default", "dead"): (1,),
        ("default", "max_idle"): (1,),
    }


def test_the_connection_that_asks_how_a_server_is_stands_beside_the_pools_own() -> None:
    pool = make_stats(size=3, used=1, idle=2, probing=1)
    session = make_stats(name="http:api", kind="http", size=1, used=1)
    found = merged([pool.as_dict(), session.as_dict()])[family("poolkit_connections")]
    assert {state: n for (name, state), (n,) in found.items() if name == "default"} == {
        "idle": 2, "used": 1, "connecting": 0, "probe": 1,
    }  # fmt: skip
    assert ("http:api", "probe") not in found


def test_a_closed_pool_has_room_for_nobody() -> None:
    closed = make_stats(state="closed", max_size=4, used=1, size=1)
    figures = merged([closed.as_dict(), make_stats(max_size=8).as_dict()])
    assert figures[family("poolkit_connections_max")]["default", ""] == (8,)
    assert figures[family("poolkit_connections")]["default", "used"] == (1,)
    states = {state: n for (_, state), (n,) in figures[family("poolkit_pools")].items()}
    assert states == {"open": 1, "paused": 0, "closed": 1}

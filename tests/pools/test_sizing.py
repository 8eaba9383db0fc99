"""The published rules by their published examples, and the laws by theirs."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from django_poolkit.pools import sizing
from django_poolkit.pools.sizing import UseTimes
from django_poolkit.pools.stats import BUCKETS, Histogram
from tests.docs_support import DOCS


def test_cores_and_disks_make_the_server() -> None:
    assert sizing.connections_of_server(8, 1) == 17
    assert sizing.connections_of_server(4, 1) == 9  # HikariCP's: "4-core i7 with one hard disk"
    assert sizing.connections_of_server(4, 0) == 8  # all of it cached
    assert sizing.connections_of_server(4) == 9


@pytest.mark.parametrize(("cores", "found"), [(4, (16, 8)), (12, (48, 24)), (13, (50, 25))])
def test_four_times_the_cores_end_at_fifty(cores: int, found: tuple[int, int]) -> None:
    assert sizing.size_and_overflow(cores) == found
    assert all(isinstance(each, int) for each in sizing.size_and_overflow(cores))


def test_production_takes_twice_the_cores_and_four() -> None:
    assert sizing.size_in_production(8) == 20


@pytest.mark.parametrize(
    ("concurrent", "queries", "size"), [(100, 3, 50), (101, 3, 51), (1, 1, 2), (1, 100, 1)]
)
def test_requests_by_queries_are_rounded_up(concurrent: int, queries: int, size: int) -> None:
    assert sizing.size_for_requests(concurrent, queries) == size


@pytest.mark.parametrize(("threads", "at_once", "size"), [(3, 4, 10), (8, 3, 17), (9, 1, 1)])
def test_a_pool_that_cannot_wait_for_itself(threads: int, at_once: int, size: int) -> None:
    assert sizing.size_without_deadlock(threads, at_once) == size


def test_the_rules_come_with_their_source() -> None:
    guides = "guides to SQLAlchemy"
    server, *pools = sizing.rules(8)
    assert server == ("8 * 2 + 1", 17, "server", "PostgreSQL wiki, HikariCP")
    assert pools == [
        ("min(8 * 4, 50), and half of it more", 32 + 16, "pool", guides),
        ("8 * 2 + 4", 20, "pool", guides),
    ]
    assert sizing.rules(8, 0)[0] == ("8 * 2 + 0", 16, "server", "PostgreSQL wiki, HikariCP")


@pytest.mark.parametrize(
    ("rule", "figures", "named"),
    [
        (sizing.connections_of_server, (4, -1), "spindles must be a whole number of at least 0"),
        (sizing.size_for_requests, (0, 1), "concurrent must be a whole number of at least 1"),
        (sizing.size_for_requests, (1, 0), "queries must be a whole number of at least 1"),
        (sizing.size_without_deadlock, (0, 1), "threads must be a whole number of at least 1"),
        (sizing.size_without_deadlock, (1, 0), "at_once must be a whole number of at least 1"),
        (sizing.erlang_c, (0, 1.0), "size must be a whole number of at least 1"),
    ],
)
def test_the_figure_that_is_none_is_named(rule: Any, figures: Any, named: str) -> None:
    with pytest.raises(ValueError, match=f"^{named}, not "):
        rule(*figures)


@pytest.mark.parametrize(
    ("formula", "example", "found"),
    [
        ("cores * 2 + disks", "8 and 1: 17", sizing.connections_of_server(8, 1)),
        ("threads * (connections at once - 1) + 1", "3 and 4: 10",
         sizing.size_without_deadlock(3, 4)),
        ("min(cores * 4, 50)", "4: 16 and 8", sizing.size_and_overflow(4)),
        ("cores * 2 + 4", "8: 20", sizing.size_in_production(8)),
        ("concurrent requests / queries per request * 1.5", "100 and 3: 50",
         sizing.size_for_requests(100, 3)),
    ],
)  # fmt: skip
def test_the_page_cites_each_rule_with_its_published_example(
    formula: str, example: str, found: int | tuple[int, int]
) -> None:
    page = (DOCS / "explanation" / "sizing.md").read_text()
    [row] = [line for line in page.splitlines() if line.startswith(f"| `{formula}`")]
    assert f"| {example} |" in row
    numbers = found if isinstance(found, tuple) else (found,)
    assert example.endswith(": " + " and ".join(map(str, numbers)))


@pytest.mark.parametrize("value", [0, -1, 2.0, True, "8", None])
def test_what_is_no_number_of_cores_is_refused(value: Any) -> None:
    for rule in (
        sizing.connections_of_server,
        sizing.size_and_overflow,
        sizing.size_in_production,
    ):
        with pytest.raises(ValueError, match="cores must be a whole number of at least 1"):
            rule(value)


def test_littles_law() -> None:
    # His own illustration in many textbooks: 6 come in an hour and stay for half of one.
    assert sizing.mean_used(6.0, 0.5) == 3.0


def test_erlangs_formula_has_its_published_values() -> None:
    # Of the call centre with 360 calls in half an hour, each of 4 minutes, and 55 agents.
    assert sizing.erlang_c(55, 48.0) == pytest.approx(0.239, abs=0.0005)
    # Of the one with 200 calls in an hour of 3 minutes, and 14 agents: 88.8 % within 20 s.
    waiting = sizing.erlang_c(14, 10.0)
    assert waiting == pytest.approx(0.174, abs=0.0005)
    assert sizing.erlang_wait(14, 10.0, 180.0, 0.888) == pytest.approx(20.0, abs=0.5)
    # With one server it is its utilization, with two at half of it a third.
    assert sizing.erlang_c(1, 0.7) == pytest.approx(0.7)
    assert sizing.erlang_c(2, 1.0) == pytest.approx(1 / 3)


def test_a_queue_that_never_ends() -> None:
    assert sizing.erlang_c(4, 4.0) == 1.0
    assert sizing.erlang_wait(4, 4.0, 1.0, 0.5) == math.inf


def test_who_need_not_wait_waits_for_no_time() -> None:
    assert sizing.erlang_wait(20, 10.0, 1.0, 0.5) == 0.0


def test_a_large_pool_overflows_nothing() -> None:
    assert 0 < sizing.erlang_c(5000, 4950.0) < 1


# -- the times that were measured


def measured(times: list[float]) -> UseTimes:
    histogram = Histogram()
    for each in times:
        histogram.observe(each)
    found = histogram.snapshot()
    return UseTimes(found.counts, found.sum)


def drawn(use: UseTimes) -> list[float]:
    return use.table(4096)


@pytest.mark.parametrize(
    "times",
    [
        [0.02] * 50,
        [0.011] * 50 + [0.024] * 2,
        [0.0001] * 900 + [0.3] * 90 + [4.0] * 10,
        [0.0, 0.0, 0.0],
        [0.0005, 0.001, 0.0025],  # each is the bound of its bucket
        [45.0, 100.0, 0.01],  # and beyond the last one
        [random.Random(3).expovariate(40.0) for _ in range(2000)],
    ],
    ids=["one", "two", "three", "none", "bounds", "beyond", "exponential"],
)
def test_times_that_are_drawn_have_the_mean_and_the_buckets_that_were_measured(
    times: list[float],
) -> None:
    use = measured(times)
    assert use.mean == pytest.approx(sum(times) / len(times))
    found = drawn(use)
    assert sum(found) / len(found) == pytest.approx(use.mean, rel=0.02, abs=1e-5)
    again = measured(found)
    for count, expected in zip(again.counts, use.counts, strict=True):
        assert count / 4096 == pytest.approx(expected / len(times), abs=0.02)  # bounds


def test_supposed_times_are_exponential() -> None:
    use = UseTimes.exponential(0.02)
    found = sorted(drawn(use))
    assert use.mean == pytest.approx(0.02)
    assert found[2048] == pytest.approx(0.02 * math.log(2), rel=0.15)
    assert found[int(4096 * 0.99)] == pytest.approx(0.02 * math.log(100), rel=0.15)


def test_the_times_of_several_processes_are_those_of_all() -> None:
    merged = UseTimes.merged([measured([0.02] * 10), measured([0.2, 0.4])])
    assert merged.count == 12
    assert merged.mean == pytest.approx(0.8 / 12)


@pytest.mark.parametrize("mean", [0.0, -1.0, math.inf, math.nan])
def test_a_mean_that_is_none_is_refused(mean: float) -> None:
    with pytest.raises(ValueError, match="the mean must be seconds above 0"):
        UseTimes.exponential(mean)


@pytest.mark.parametrize(
    "counts", [(), (1,), (0,) * (len(BUCKETS) + 1), (-1, *(1,) * len(BUCKETS))]
)
def test_counts_that_are_none_are_refused(counts: tuple[int, ...]) -> None:
    with pytest.raises(
        ValueError, match=r"^there must be a count for each bucket, and one above 0$"
    ):
        UseTimes(counts, 1.0)

"""The figures of a process: counters that only grow, whatever becomes of the pools."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from django_poolkit.metrics.families import FAMILIES, Figures
from django_poolkit.metrics.readings import Readings
from django_poolkit.pools.postgres import ConnectionPool
from django_poolkit.pools.stats import Histogram
from django_poolkit.testing.waiting import wait_until
from tests.metrics.support import ScriptedPool
from tests.pools.support import make_stats, queue_up

pytestmark = pytest.mark.core

MakePool = Callable[..., ConnectionPool]


def number(figures: Figures, name: str, key: str = "", pool: str = "default") -> float | None:
    [family] = [each for each in FAMILIES if each.name == name]
    found = figures[family].get((pool, key))
    return None if found is None else sum(found[:-1] if family.kind == "histogram" else found)


def readings_of(*pools: Any) -> Readings:
    return Readings(list(pools))


def use(pool: ConnectionPool, times: int = 1) -> None:
    for _ in range(times):
        with pool.lease() as connection:
            connection.execute("SELECT 1")


def test_reading_opens_nothing(make_pool: MakePool) -> None:
    pool = make_pool(name="default")
    figures = readings_of(pool).take()
    assert number(figures, "poolkit_connections", "idle") == 0
    assert number(figures, "poolkit_connections_max") == pool.max_size
    assert number(figures, "poolkit_collect_errors_total") == 0
    assert pool.stats().connects == 0
    assert not pool._opened


def test_counters_grow_through_recycle_resize_and_a_pool_made_anew(make_pool: MakePool) -> None:
    table: list[ConnectionPool] = []
    readings = Readings(table)
    acquires = []

    def look() -> Figures:
        figures = readings.take()
        acquires.append(number(figures, "poolkit_acquires_total"))
        assert number(figures, "poolkit_wait_seconds") == acquires[-1]
        return figures

    for _ in range(2):
        pool = make_pool(name="default", max_size=3)
        table[:] = [pool]
        readings.watch(pool)
        use(pool)
        look()
        pool.recycle()
        use(pool)
        look()
        pool.resize(0, 1)
        use(pool)
        look()
        table.clear()
        use(pool)  # counted after it has left the table, too
        pool.close()
        look()
    assert acquires == [1, 2, 3, 4, 5, 6, 7, 8]
    assert number(look(), "poolkit_connections", "idle") is None


def test_a_closed_pool_that_stays_in_the_table_is_counted_once(make_pool: MakePool) -> None:
    pool = make_pool(name="default")
    readings = readings_of(pool)
    use(pool, 3)
    pool.close()
    for _ in range(3):
        assert number(readings.take(), "poolkit_acquires_total") == 3


def test_what_is_counted_back_is_not_seen_to_shrink() -> None:
    pool = ScriptedPool()
    readings = readings_of(pool)
    seen = []
    # A lease whose connection turned out to be dead is counted back, and counted again.
    for acquired in (5, 6, 5, 6, 7):
        pool.says = make_stats(acquired=acquired)
        figures = readings.take()
        seen.append(number(figures, "poolkit_acquires_total"))
        assert number(figures, "poolkit_wait_seconds") == seen[-1]
    assert seen == [5, 6, 6, 6, 7]


def test_a_pool_that_cannot_be_read_is_counted_and_the_others_are_shown(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bad, good = ScriptedPool(name="bad", acquired=2), ScriptedPool(acquired=1)
    readings = readings_of(bad, good)
    readings.take()
    bad.says = RuntimeError("on fire")
    with caplog.at_level(logging.ERROR, "django_poolkit.metrics"):
        readings.take()
        figures = readings.take()
    assert [record.getMessage() for record in caplog.records] == ["pool=bad event=collect_failed"]
    assert number(figures, "poolkit_collect_errors_total", pool="bad") == 2
    assert number(figures, "poolkit_collect_errors_total") == 0
    assert number(figures, "poolkit_acquires_total") == 1
    assert number(figures, "poolkit_acquires_total", pool="bad") == 2  # the last that was known
    assert number(figures, "poolkit_waiters", pool="bad") is None
    bad.says = make_stats(name="bad", acquired=4)
    assert number(readings.take(), "poolkit_acquires_total", pool="bad") == 4


def test_a_lease_of_a_closed_pool_is_seen_until_it_comes_home(make_pool: MakePool) -> None:
    pool = make_pool(name="default")
    readings = readings_of()
    readings.watch(pool)
    lease = pool.acquire()
    pool.close()
    figures = readings.take()
    assert number(figures, "poolkit_connections", "used") == 1
    assert number(figures, "poolkit_connections_max") == 0
    lease.release()
    assert number(readings.take(), "poolkit_use_seconds") == 1
    assert number(readings.take(), "poolkit_connections", "used") is None


def test_pools_that_come_and_go_do_not_pile_up_where_nobody_asks() -> None:
    readings = readings_of()
    gone = []
    for _ in range(5):
        pool = ScriptedPool(acquired=1)
        readings.watch(pool)  # type: ignore[arg-type]
        pool.says = make_stats(acquired=2, state="closed")
        gone.append(weakref.ref(pool))
        del pool
    gc.collect()
    assert [pool() is None for pool in gone] == [True] * 4 + [False]
    assert number(readings.take(), "poolkit_acquires_total") == 10


def test_the_oldest_waiter_is_nobody_once_the_queue_is_empty(make_pool: MakePool) -> None:
    pool = make_pool(name="default", max_size=1)
    readings = readings_of(pool)
    lease = pool.acquire()
    waiting = [queue_up(pool, use, pool) for _ in range(2)]
    assert number(readings.take(), "poolkit_waiters") == 2
    age = number(readings.take(), "poolkit_oldest_waiter_seconds")
    assert age is not None
    assert age > 0
    wait_until(lambda: (number(readings.take(), "poolkit_oldest_waiter_seconds") or 0) > age)
    lease.release()
    for call in waiting:
        call.result()
    figures = readings.take()
    assert number(figures, "poolkit_waiters") == 0
    assert number(figures, "poolkit_oldest_waiter_seconds") == 0


def test_figures_of_a_histogram_grow_bucket_by_bucket() -> None:
    use_time = Histogram()
    pool = ScriptedPool()
    readings = readings_of(pool)
    for seconds in (0.002, 0.2, 0.002, 60.0):
        use_time.observe(seconds)
        pool.says = make_stats(use=use_time.snapshot())
        figures = readings.take()
    [family] = [each for each in FAMILIES if each.name == "poolkit_use_seconds"]
    value = figures[family]["default", ""]
    assert value[:-1] == use_time.snapshot().counts
    assert value[-1] == pytest.approx(60.204)


def test_clusters_that_cannot_be_written_are_shown() -> None:
    taken = Readings((), read_only=lambda: {("default", ""): 1, ("metrics", ""): 0}).take()
    [family] = [each for each in FAMILIES if each.name == "poolkit_read_only"]
    assert taken[family] == {("default", ""): (1,), ("metrics", ""): (0,)}
    assert (family.labels, family.across) == (("cluster",), "max")


def test_floors_are_shown_by_cluster() -> None:
    counts = {("default", "fast"): 3, ("default", "primary"): 1}
    taken = Readings((), lambda: counts).take()
    [family] = [each for each in FAMILIES if each.name == "poolkit_floors_total"]
    assert taken[family] == {("default", "fast"): (3,), ("default", "primary"): (1,)}
    assert family.labels == ("cluster", "outcome")


def test_slow_slices_are_shown_by_call() -> None:
    taken = Readings((), slow=lambda: {("QuerySet.get", ""): 2}).take()
    [family] = [each for each in FAMILIES if each.name == "poolkit_slow_slices_total"]
    assert taken[family] == {("QuerySet.get", ""): (2,)}
    assert family.labels == ("call",)


def test_decisions_are_shown_by_cluster() -> None:
    counts = {("default", "read"): 7, ("other", "wrote"): 2}
    taken = Readings((), decisions=lambda: counts).take()
    [family] = [each for each in FAMILIES if each.name == "poolkit_routing_decisions_total"]
    assert taken[family] == {("default", "read"): (7,), ("other", "wrote"): (2,)}
    assert family.labels == ("cluster", "reason")

"""The collector, on a real registry, read by a real parser."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from django_poolkit.metrics import collector
from django_poolkit.metrics.collector import PoolCollector
from django_poolkit.metrics.families import FAMILIES
from django_poolkit.metrics.readings import Readings
from django_poolkit.pools.postgres import ConnectionPool
from django_poolkit.pools.postgres.errors import PoolTimeout, TooManyWaiters
from django_poolkit.testing.waiting import wait_until
from tests.metrics.support import Samples, ScriptedPool, assert_grown, parsed, value
from tests.pools.support import Call, fill, make_stats, queue_up

pytestmark = pytest.mark.core

MakePool = Callable[..., ConnectionPool]


def registry_of(*pools: object) -> CollectorRegistry:
    registry = CollectorRegistry(auto_describe=True)  # as the default one
    registry.register(PoolCollector(Readings(list(pools))))  # type: ignore[arg-type]
    return registry


def scrape(registry: CollectorRegistry) -> Samples:
    return parsed(generate_latest(registry).decode())


def test_to_register_opens_and_reads_nothing(make_pool: MakePool) -> None:
    pool = make_pool(name="default")
    unread = ScriptedPool(name="bad")
    unread.says = AssertionError("it was read")
    threads = set(threading.enumerate())
    registry = registry_of(pool, unread)
    assert not pool._opened
    assert set(threading.enumerate()) <= threads  # one of an earlier test may end
    samples = scrape(registry)
    assert value(samples, "poolkit_connections", state="idle") == 0
    assert value(samples, "poolkit_collect_errors_total", pool="bad") == 1
    assert not pool._opened


def test_it_is_registered_once() -> None:
    registry = CollectorRegistry(auto_describe=True)
    assert collector.register(registry) is collector.register(registry)
    assert len(list(registry.collect())) == len(FAMILIES)


def test_a_scrape_may_ask_for_single_names() -> None:
    registry = registry_of(ScriptedPool(waiters=2))
    text = generate_latest(registry.restricted_registry(["poolkit_waiters"])).decode()
    assert parsed(text) == {("poolkit_waiters", frozenset({("pool", "default")})): 2}


def test_the_figures_are_those_of_what_was_done(make_pool: MakePool) -> None:
    pool = make_pool(name="default", max_size=1, max_waiting=1)
    registry = registry_of(pool)
    fill(pool, 1)
    before = scrape(registry)
    # Somebody holds on, another waits for it, and a third is refused.
    lease = pool.acquire()
    second = queue_up(pool, take_one, pool)
    with pytest.raises(TooManyWaiters):
        pool.acquire()
    wait_until(lambda: pool.stats().oldest_waiter > 0.1)
    during = scrape(registry)
    lease.release()
    second.result()
    # Somebody holds on, and another gives up.
    lease = pool.acquire()
    with pytest.raises(PoolTimeout):
        pool.acquire(timeout=0.02)
    lease.release()
    after = scrape(registry)

    assert value(during, "poolkit_connections", state="used") == 1
    assert value(during, "poolkit_connections_max") == 1
    assert value(during, "poolkit_utilization_ratio") == 1
    assert value(during, "poolkit_waiters") == 1
    assert (value(during, "poolkit_oldest_waiter_seconds") or 0) > 0.1
    assert (value(during, "poolkit_oldest_lease_seconds") or 0) > 0.1
    assert value(after, "poolkit_oldest_waiter_seconds") == 0
    assert value(after, "poolkit_oldest_lease_seconds") == 0

    def more(name: str, **labels: str) -> float:
        return (value(after, name, **labels) or 0) - (value(before, name, **labels) or 0)

    assert more("poolkit_acquires_total") == 3
    assert more("poolkit_waits_total") == 1
    assert more("poolkit_timeouts_total") == 1
    assert more("poolkit_too_many_waiters_total") == 1
    assert more("poolkit_connects_total") == 0
    assert more("poolkit_wait_seconds_count") == 3
    assert more("poolkit_wait_seconds_bucket", le="0.1") == 2
    assert more("poolkit_wait_seconds_sum") > 0.1
    assert more("poolkit_use_seconds_count") == 3
    # The first was held for longer; how long the two others took is the machine's affair.
    assert 1 <= more("poolkit_use_seconds_bucket", le="0.1") <= 2
    assert more("poolkit_use_seconds_sum") > 0.12
    assert value(after, "poolkit_connect_seconds_count") == 1
    assert_grown(before, during)
    assert_grown(during, after)


def take_one(pool: ConnectionPool) -> None:
    pool.acquire().release()


def test_labels_are_words_of_the_code_and_name_nobody() -> None:
    pool = ScriptedPool()
    registry = registry_of(pool)
    for reason in ("dead", "max_idle", "dead"):
        pool.says = make_stats(
            closed={reason: 1}, last_connect_error="FATAL: user anna at 10.1.2.3"
        )
        samples = scrape(registry)
    names = {name for _, labels in samples for name, _ in labels}
    assert names == {"pool", "state", "reason", "kind", "le"}
    texts = {text for _, labels in samples for name, text in labels if name == "reason"}
    assert texts == {"dead", "max_idle"}
    assert "anna" not in generate_latest(registry).decode()


def test_scrapes_at_the_same_time_agree(make_pool: MakePool) -> None:
    pool = make_pool(name="default")
    registry = registry_of(pool)
    fill(pool, 2)
    calls = [Call(lambda: [scrape(registry) for _ in range(20)]) for _ in range(4)]
    for call in calls:
        for samples in call.result():
            assert value(samples, "poolkit_acquires_total") == 2

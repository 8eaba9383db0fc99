"""Shares: one kind of work never has more than its part, and stands in nobody's way."""

from __future__ import annotations

import gc
import random
import threading
import time
import warnings
from collections import Counter
from contextlib import nullcontext
from typing import Any

import pytest

from django_poolkit import PoolError, PoolTimeout, PoolWarning, TooManyWaiters, deadline, share
from django_poolkit.pools.config import PoolConfig
from django_poolkit.pools.errors import PoolConfigError
from django_poolkit.pools.postgres import acquire
from django_poolkit.pools.stats import ShareStats
from django_poolkit.testing.waiting import wait_until
from tests.pools.support import Call, fill, queue_up


def reporting(pool: Any, timeout: float | None = None) -> Any:
    """Acquire for a report."""
    with share("reports"):
        return pool.acquire(timeout)


def used(pool: Any, name: str = "reports") -> int:
    return int(pool.stats().shares[name].used)


def test_a_share_has_its_part_and_others_have_the_rest(make_pool):
    pool = make_pool(max_size=4, shares={"reports": 0.5}, name="orders")
    reports = [reporting(pool), reporting(pool)]
    with pytest.raises(PoolTimeout) as caught:
        reporting(pool, timeout=0.05)
    assert caught.value.share == "reports"
    assert "within 0.05 s: share 'reports' holds 2 of its 2 (used 2/4" in str(caught.value)
    others = [pool.acquire(), pool.acquire()]
    assert pool.stats().shares == {"reports": ShareStats(used=2, max_used=2, waiters=0)}
    for lease in reports + others:
        lease.release()
    assert used(pool) == 0


@pytest.mark.parametrize(
    ("part", "size", "limit"), [(0.3, 10, 3), (0.3, 4, 2), (0.01, 10, 1), (1, 3, 3), (0.1, 30, 3)]
)
def test_a_part_is_rounded_up(make_pool, part, size, limit):
    pool = make_pool(max_size=size, shares={"reports": part})
    assert pool.stats().shares["reports"].max_used == limit


def test_who_waits_for_a_share_lets_others_pass(make_pool):
    pool = make_pool(max_size=2, shares={"reports": 0.5})
    report = reporting(pool)
    other = pool.acquire()
    waiting = queue_up(pool, reporting, pool)
    behind = queue_up(pool, pool.acquire)
    other.release()
    second = behind.result()  # the first of the queue is passed by
    second.release()
    with pool.acquire(timeout=0):  # one that is idle is had at once, queue or none
        assert pool.stats().waiters == 1
    report.release()
    waiting.result().release()


def test_a_share_is_served_in_the_order_of_all(make_pool):
    pool = make_pool(max_size=1, shares={"reports": 1, "mails": 1})
    held, order = pool.acquire(), []
    lock = threading.Lock()

    def work(name: str | None, number: int) -> None:
        with nullcontext() if name is None else share(name), pool.acquire(), lock:
            order.append(number)

    names = ["reports", None, "mails", "reports", None, "mails"]
    calls = [queue_up(pool, work, name, number) for number, name in enumerate(names)]
    held.release()
    for call in calls:
        call.result()
    assert order == list(range(len(names)))


def test_no_connection_is_made_for_who_waits_for_a_share(make_pool):
    pool = make_pool(max_size=4, shares={"reports": 0.25})
    report = reporting(pool)
    calls = [queue_up(pool, reporting, pool) for _ in range(3)]
    pool.check()
    assert (pool.stats().size, pool.stats().connects) == (1, 1)
    for call in calls:
        report.release()
        report = call.result()
    report.release()
    assert pool.stats().connects == 1


def discard(lease: Any) -> None:
    lease.discard()


def kill(lease: Any) -> None:
    lease.connection.close()
    lease.release()


@pytest.fixture
def nobody_looks(monkeypatch):
    """Have waiters not look by themselves: they are to be told."""
    monkeypatch.setattr(acquire, "_ORPHAN_ROUND", 60.0)


@pytest.mark.usefixtures("nobody_looks")
@pytest.mark.parametrize("end", [discard, kill])
def test_a_lease_that_ends_badly_frees_its_part(make_pool, end):
    pool = make_pool(max_size=3, shares={"reports": 0.1})
    fill(pool, 2)
    report = reporting(pool)
    waiting = queue_up(pool, reporting, pool)
    end(report)
    waiting.result().release()
    assert used(pool) == 0
    assert pool.stats().connects == 2  # it got the one that was idle


def test_a_lease_that_is_dropped_frees_its_part(make_pool):
    pool = make_pool(max_size=3, shares={"reports": 0.1})

    def forget() -> None:
        lease = reporting(pool)
        lease.mine = lease  # in a cycle, so that the collector finds it

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        thread = Call(forget)
        thread.result()
        waiting = queue_up(pool, reporting, pool)
        gc.collect()
        waiting.result().release()
        pool.acquire().release()  # whoever passes takes it back, and says so
        wait_until(lambda: bool(caught))
    assert [one.category for one in caught] == [PoolWarning]
    assert used(pool) == 0


def test_who_gives_up_waiting_frees_its_place(make_pool):
    pool = make_pool(max_size=3, shares={"reports": 0.1})
    report = reporting(pool)
    with pytest.raises(PoolTimeout, match="deadline"), deadline(0.05):
        reporting(pool)
    assert pool.stats().shares["reports"].waiters == 0
    waiting = queue_up(pool, reporting, pool)
    report.release()
    waiting.result().release()


@pytest.mark.usefixtures("nobody_looks")
def test_resize_changes_what_a_share_may_have(make_pool):
    pool = make_pool(max_size=2, shares={"reports": 0.5})
    fill(pool, 2)
    first = reporting(pool)
    waiting = queue_up(pool, reporting, pool)
    pool.resize(0, 4)
    second = waiting.result()
    assert pool.stats().connects == 2  # it got the one that was idle
    pool.resize(0, 2)
    assert pool.stats().shares["reports"] == ShareStats(used=2, max_used=1, waiters=0)
    waiting = queue_up(pool, reporting, pool)
    first.release()
    assert pool.stats().waiters == 1
    second.release()
    waiting.result().release()


def test_a_pause_ends_for_shares_too(make_pool):
    pool = make_pool(max_size=4, shares={"reports": 0.25})
    with reporting(pool):
        pass
    pool.pause()
    calls = [queue_up(pool, reporting, pool), queue_up(pool, pool.acquire)]
    pool.resume()
    calls[1].result().release()
    calls[0].result().release()


def test_the_queue_of_a_share_does_not_fill_that_of_the_pool(make_pool):
    pool = make_pool(max_size=2, max_waiting=1, shares={"reports": 0.5})
    report, other = reporting(pool), pool.acquire()
    first = queue_up(pool, reporting, pool)
    with pytest.raises(TooManyWaiters):
        reporting(pool)
    second = queue_up(pool, pool.acquire)
    with pytest.raises(TooManyWaiters):
        pool.acquire()
    other.release()
    second.result().release()
    report.release()
    first.result().release()


def test_a_share_that_the_pool_does_not_know_is_none(make_pool):
    pool = make_pool(max_size=1, shares={"reports": 1})
    with share("mails"), pool.acquire():
        assert used(pool) == 0
    with share("reports"), make_pool().acquire() as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_label_is_asked_for_where_no_share_is_named(make_pool):
    pool = make_pool(max_size=2, shares={"reports": 1, "mails": 1})
    pool.label_leases(lambda: "mails")
    with pool.acquire(), reporting(pool):
        assert (used(pool, "mails"), used(pool, "reports")) == (1, 1)


@pytest.mark.parametrize(
    ("shares", "what"),
    [
        (["reports"], "must be a dict"),
        ({"reports": 0}, r"\['reports'\] must be a number above 0"),
        ({"reports": 1.5}, "1 at most; got 1.5"),
        ({"reports": True}, "of type bool"),
        ({"reports": float("nan")}, "above 0"),
        ({"reports": "0.3"}, "got a value of type str"),
        ({5: 0.3}, "names for keys"),
    ],
)
def test_what_is_no_share_is_refused(shares, what):
    with pytest.raises(PoolConfigError, match=what):
        PoolConfig.from_options({"shares": shares})


@pytest.mark.parametrize(
    "seconds", [2.0, pytest.param(60.0, marks=pytest.mark.slow)], ids=["short", "long"]
)
def test_the_sums_hold_and_nobody_starves(make_pool, seconds):
    pool = make_pool(max_size=4, shares={"reports": 0.5, "mails": 0.25}, timeout=60.0)
    served: Counter[int] = Counter()
    stop = threading.Event()
    broken: list[str] = []

    def work(number: int) -> None:
        chance = random.Random(number)
        name = ("reports", "mails", None)[number % 3]
        with nullcontext() if name is None else share(name):
            while not stop.is_set():
                timeout = chance.choice([None, None, 0.001])
                try:
                    lease = pool.acquire(timeout)
                except PoolError:
                    continue
                served[number] += 1
                if chance.random() < 0.2:
                    lease.connection.execute("SELECT pg_sleep(0.001)")
                (lease.discard if chance.random() < 0.02 else lease.release)()

    calls = [Call(work, number) for number in range(24)]
    ends = time.monotonic() + seconds
    sizes = random.Random(0)
    while time.monotonic() < ends:
        if sizes.random() < 0.02:
            pool.resize(0, sizes.choice([2, 4, 8]))
        stats = pool.stats()
        broken += [
            f"{name}: {found}"
            for name, found in stats.shares.items()
            # After a smaller size what is held comes home first.
            if found.used > pool._shares.limit(name, 8)
        ]
        assert stats.size == stats.idle + stats.used + stats.connecting
        time.sleep(0.001)
    pool.resize(0, 4)
    stop.set()
    for call in calls:
        call.result(timeout=60.0)
    assert broken == []
    assert len(served) == 24, "somebody was never served"
    wait_until(lambda: pool.stats().connecting == 0)
    stats = pool.stats()
    assert (stats.used, stats.waiters) == (0, 0)
    assert {found.used for found in stats.shares.values()} == {0}

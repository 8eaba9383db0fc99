"""Nothing grows: no thread, descriptor, object or memory is left by what is done again and again.

What is counted after the first rounds is what there may be after the last.
"""

from __future__ import annotations

import gc
import os
import threading
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from django_poolkit.pools.lease import Lease
from django_poolkit.pools.postgres import ConnectionPool
from django_poolkit.pools.postgres.connection import PoolConnection
from django_poolkit.testing.waiting import wait_until

# Objects that Python itself makes and keeps now and then, as caches, in a run of many tests.
SLACK = 300
# Megabytes: a leak of 100 bytes a cycle would be ten.
MEGABYTES = 4.0


class Count(NamedTuple):
    """What there is at one moment."""

    threads: int
    descriptors: int
    leases: int
    connections: int
    pools: int
    objects: int
    megabytes: float


def count() -> Count:
    """Count what is alive."""
    gc.collect()
    objects = gc.get_objects()
    kinds = Counter(type(each) for each in objects)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return Count(
        threads=threading.active_count(),
        descriptors=len(list(Path("/proc/self/fd").iterdir())),
        leases=kinds[Lease],
        connections=sum(n for kind, n in kinds.items() if issubclass(kind, PoolConnection)),
        pools=kinds[ConnectionPool],
        objects=len(objects),
        megabytes=pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
    )


def assert_no_growth(work: Callable[[], object], *, times: int, first: int) -> None:
    """Do `work` again and again, and compare what is there with what was there early."""
    for _ in range(first):
        work()
    before = count()
    for _ in range(times):
        work()

    def grown() -> list[str]:
        now = count()
        return [
            f"{name}: {old} -> {new}"
            for name, old, new in zip(Count._fields, before, now, strict=True)
            if new > old + {"objects": SLACK, "megabytes": MEGABYTES}.get(name, 0)
        ]

    # Threads end a moment after they are done, and what they knew with them.
    wait_until(lambda: not grown(), message=lambda: ", ".join(grown()))


CYCLES = pytest.mark.parametrize(
    "times", [5_000, pytest.param(100_000, marks=pytest.mark.slow)], ids=["some", "many"]
)


@CYCLES
def test_acquires_and_releases(make_pool: Callable[..., ConnectionPool], times: int) -> None:
    pool = make_pool(max_size=2, shares={"reports": 0.5})

    def work() -> None:
        pool.acquire().release()

    assert_no_growth(work, times=times, first=1_000)
    assert pool.stats().connects == 1


def test_acquires_that_fail(make_pool: Callable[..., ConnectionPool]) -> None:
    pool = make_pool(max_size=1)

    def work() -> None:
        with pytest.raises(TimeoutError):
            pool.acquire(timeout=0.0)

    with pool.acquire():
        assert_no_growth(work, times=1_000, first=200)
    assert pool.stats().waiters == 0


@pytest.mark.parametrize(
    "times", [60, pytest.param(1_000, marks=pytest.mark.slow)], ids=["some", "many"]
)
def test_threads_that_die_with_a_lease(
    make_pool: Callable[..., ConnectionPool], times: int
) -> None:
    # In autocommit: a line in the log for each rollback would be kept by whoever captures it.
    pool = make_pool(max_size=2, kwargs={"autocommit": True})

    def dies() -> None:
        lease: Any = pool.acquire()
        lease.connection.execute("SELECT 1")

    def work() -> None:
        thread = threading.Thread(target=dies)
        thread.start()
        thread.join()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert_no_growth(work, times=times, first=20)
        with pool.acquire(), pool.acquire():  # every slot is there
            pass
    assert pool.stats().leaks == times + 20


@pytest.mark.parametrize(
    "times", [15, pytest.param(100, marks=pytest.mark.slow)], ids=["some", "many"]
)
def test_pools_that_are_opened_again(params: dict[str, Any], times: int) -> None:
    def work() -> None:
        pool = ConnectionPool(kwargs=params, max_size=3, min_size=1)
        pool.open(wait=True)
        with pool.acquire(), pool.acquire():
            pass
        pool.close()

    assert_no_growth(work, times=times, first=5)

"""What the model predicts, held against what callers of a real pool really wait."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

from django_poolkit.pools.postgres import ConnectionPool
from django_poolkit.pools.queueing import Load, Prediction, Queue
from django_poolkit.pools.sizing import UseTimes
from django_poolkit.pools.stats import HistogramStats

CALLERS = 900
RATE = 150.0  # callers per second
MEAN = 0.012  # seconds for which a caller works: 1.8 connections on average, and what a lease costs
TARGET = 0.01


@dataclass(frozen=True)
class Run:
    """What one run of the load was measured to be."""

    load: Load
    queued: float
    waits: HistogramStats

    @cached_property
    def queue(self) -> Queue:
        return Queue([self.load], timeout=30.0)

    @property
    def mean(self) -> float:
        return self.waits.sum / self.waits.count

    def predicted(self, size: int) -> Prediction:
        return self.queue.at(size)


def run(pool: ConnectionPool, *, seed: int) -> Run:
    """Let callers come by chance, each from a thread of its own, whether the others wait or not."""
    chance = random.Random(seed)
    before = pool.stats()

    def call(seconds: float) -> None:
        with pool.lease() as connection:
            connection.execute("SELECT pg_sleep(%s)", (seconds,))

    began = at = time.monotonic()
    with ThreadPoolExecutor(CALLERS) as threads:
        calls = []
        for _ in range(CALLERS):
            at += chance.expovariate(RATE)
            time.sleep(max(0.0, at - time.monotonic()))
            calls.append(threads.submit(call, chance.expovariate(1 / MEAN)))
        came = time.monotonic() - began
        for each in calls:
            each.result()
    now = pool.stats()
    counts = tuple(new - old for new, old in zip(now.use.counts, before.use.counts, strict=True))
    waits = tuple(new - old for new, old in zip(now.waits.counts, before.waits.counts, strict=True))
    assert sum(counts) == sum(waits) == CALLERS
    use = UseTimes(counts, now.use.sum - before.use.sum)
    return Run(
        load=Load(asked=((came, CALLERS / came),), use=use),
        queued=(now.waited - before.waited) / CALLERS,
        waits=HistogramStats(now.waits.buckets, waits, now.waits.sum - before.waits.sum),
    )


def test_what_is_predicted_from_measured_use_is_what_is_waited(
    make_pool: Callable[..., ConnectionPool],
) -> None:
    """Two real sizes under one real load, and what the model makes of the first.

    The bounds are wide for three reasons. Nine hundred callers of one queue depend on each other,
    so that the mean wait of such a run has a deviation of a third, by the model itself. A
    machine that is busy delays threads by milliseconds, which count as waits. And the model does
    not know that statements slow each other down.
    """
    pool = make_pool(max_size=3, min_size=3, timeout=30.0)
    pool.open(wait=True, timeout=10.0)
    tight = run(pool, seed=1)
    predicted = tight.predicted(3)
    # The queue is there, and about as long as predicted.
    assert tight.queued > 0.1
    assert predicted.queued / 2 < tight.queued < predicted.queued * 2
    assert predicted.mean / 4 < tight.mean < predicted.mean * 4 + 0.01

    advised = tight.queue.smallest(TARGET)
    assert advised is not None
    assert advised > 3
    pool.resize(advised, advised)
    pool.wait(10.0)
    roomy = run(pool, seed=2)
    # It falls, to about what was predicted for that size before it was tried.
    better = tight.predicted(advised)
    assert better.p99 <= TARGET < predicted.p99
    assert roomy.queued < tight.queued / 2
    assert roomy.mean < tight.mean / 2
    assert roomy.mean < better.mean * 4 + 0.005
    assert roomy.waits.quantile(0.99) < tight.waits.quantile(0.99)

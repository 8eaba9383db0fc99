"""How long callers would wait for a connection, were the pool of another size: by simulation.

The model is one queue, first come, first served, before connections that are all open (G/G/c with
patience). Callers arrive by chance, at the rates that were measured, stretch by stretch; leases
last as long as the measured ones, each independent of the others; whoever has waited for `timeout`
goes. What the model leaves out: connects, shares, a bound on waiters, and that the database gets
slower when more work on it at once.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import heapreplace, merge
from typing import Final, TypeAlias

from django_poolkit.pools.sizing import UseTimes, mean_used

Job: TypeAlias = tuple[float, float]
"""When somebody asks for a connection, and for how long it is used; both in seconds."""

LEAST: Final = 30_000
MOST: Final = 60_000
"""Acquires that are simulated, about: a p99 of fewer is a matter of luck, more take long."""
LARGEST: Final = 10_000
"""Connections, beyond which no size is looked for."""
_SEED: Final = 20240229  # any: the same load gets the same answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is asked of one pool."""

    asked: tuple[tuple[float, float], ...]
    """Stretches of time: their seconds, and acquires per second in them."""
    use: UseTimes
    held: int = 0
    """Connections that somebody holds all the time."""

    def __post_init__(self) -> None:
        if not self.seconds > 0 or any(length < 0 or rate < 0 for length, rate in self.asked):
            raise ValueError("a load needs stretches of time, and rates of at least 0")

    @property
    def seconds(self) -> float:
        """How long was looked at."""
        return sum(length for length, _ in self.asked)

    @property
    def rate(self) -> float:
        """Acquires per second on average."""
        return sum(length * rate for length, rate in self.asked) / self.seconds

    @property
    def busiest(self) -> float:
        """Acquires per second in the busiest stretch."""
        return max(rate for _, rate in self.asked)

    @property
    def offered(self) -> float:
        """Connections that would be leased on average, were there enough; without `held`."""
        return mean_used(self.rate, self.use.mean)

    def times(self, factor: float) -> Load:
        """Return so many times this load."""
        asked = tuple((length, rate * factor) for length, rate in self.asked)
        return Load(asked=asked, use=self.use, held=self.held)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a pool of some size would do under a load. Durations are seconds."""

    size: int
    acquires: int
    """So many were simulated."""
    queued: float
    """Share of them that has to queue."""
    mean: float
    p50: float
    p95: float
    p99: float
    """Of the waits of all: who does not queue waits 0.0, who gives up as long as that took."""
    timeouts: float
    """Share that waits in vain."""
    utilization: float
    """Share of the time for which connections are leased, those that are `held` included."""


class Queue:
    """The queue before pools of any size, under one and the same load.

    All sizes meet the same callers, so that a larger one is never predicted to be slower. To make
    it takes some 0.1 s of work, each size that is looked at 0.03 s. For one thread.
    """

    def __init__(
        self, loads: Sequence[Load], *, timeout: float, threads: int | None = None
    ) -> None:
        """Take what is asked of the pool, and for how many seconds callers wait at most.

        With `threads` no more of them are there at once.
        """
        self.timeout, self.threads = timeout, threads
        self.held = sum(load.held for load in loads)
        self._offered = sum(load.offered for load in loads)
        self._made = jobs(loads)
        self._found: dict[int, Prediction] = {}

    def at(self, size: int) -> Prediction:
        """Predict what a pool of `size` does."""
        if size not in self._found:
            self._found[size] = self._serve(self._made, size)
        return self._found[size]

    def smallest(self, target: float, *, most: int = LARGEST) -> int | None:
        """Return the smallest size at which the predicted p99 is `target` seconds at most.

        None where not even `most` connections do.
        """
        low = self.held + 1
        if low > most:
            return None
        step = max(1, math.ceil(math.sqrt(self._offered)))
        high = min(most, self.held + max(1, math.ceil(self._offered)))
        while self.at(high).p99 > target:
            if high == most:
                return None
            low, high, step = high + 1, min(most, high + step), step * 2
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if self.at(middle).p99 > target else (low, middle)
        return high

    def bears(self, size: int, target: float) -> float:
        """Return how many times this load a pool of `size` bears with a p99 of `target` seconds.

        To a tenth; 0.0 where it does not even bear a tenth of it, 10.0 for 10 times and more.
        """
        low, high = 0, 101
        while low + 1 < high:
            middle = (low + high) // 2
            sooner = [(at * 10 / middle, use) for at, use in self._made]
            kept = self._serve(sooner, size).p99 <= target
            low, high = (middle, high) if kept else (low, middle)
        return low / 10

    def _serve(self, made: Sequence[Job], size: int) -> Prediction:
        return serve(made, size, timeout=self.timeout, threads=self.threads, held=self.held)


def jobs(loads: Sequence[Load]) -> list[Job]:
    """Make up callers as they would come, in the order of their arrival."""
    made = streams(loads)
    return made[0] if len(made) == 1 else list(merge(*made))


def streams(loads: Sequence[Load]) -> list[list[Job]]:
    """Make up the callers of each load, over one and the same time."""
    rate = sum(load.rate for load in loads)
    if not rate:
        return [[] for _ in loads]
    seconds = max(load.seconds for load in loads)
    seconds *= max(1, math.ceil(LEAST / (rate * seconds)))  # whole windows
    # Where that is too many, each stretch is made shorter.
    pace = min(1.0, MOST / (rate * seconds))
    return [list(_of(load, seconds * pace, pace, seed)) for seed, load in enumerate(loads)]


def _of(load: Load, seconds: float, pace: float, seed: int) -> Iterator[Job]:
    chance = random.Random(_SEED + seed)
    # Drawn from a table: as good as the histogram is, and ten times as fast.
    times = load.use.table(4096)
    now = 0.0
    while now < seconds:
        for length, rate in load.asked:
            end = min(now + length * pace, seconds)
            if rate:
                at = now + chance.expovariate(rate)
                while at < end:  # an exponential time has no memory, so each stretch begins anew
                    yield at, times[chance.getrandbits(12)]
                    at += chance.expovariate(rate)
            now = end


def serve(
    made: Sequence[Job], size: int, *, timeout: float, threads: int | None = None, held: int = 0
) -> Prediction:
    """Have a pool of `size` serve these callers, in the order in which they come.

    `held` of its connections are none for them. First come, first served: whoever comes gets the
    connection that is free first (J. Kiefer and J. Wolfowitz, 1955).
    """
    if size <= held:
        return _never(size, len(made), timeout)
    free = [0.0] * (size - held)  # when each connection is free; a heap
    ready = [0.0] * threads if threads else None
    waits: list[float] = []
    gone, busy = 0, 0.0
    for at, use in made:
        if ready is not None:
            at = max(at, ready[0])
        begin = free[0]
        if begin <= at:
            begin = at
        elif begin - at > timeout:
            gone += 1
            waits.append(timeout)
            if ready is not None:
                heapreplace(ready, at + timeout)
            continue
        else:
            waits.append(begin - at)
        heapreplace(free, begin + use)
        if ready is not None:
            heapreplace(ready, begin + use)
        busy += use
    end = max(max(free), made[-1][0]) if made else 1.0
    return Prediction(
        size=size,
        acquires=len(made),
        queued=len(waits) / max(1, len(made)),
        mean=sum(waits) / max(1, len(made)),
        timeouts=gone / max(1, len(made)),
        utilization=(busy / end + held) / size,
        **_quantiles(sorted(waits), len(made)),
    )


def _quantiles(waits: Sequence[float], count: int) -> dict[str, float]:
    """Return those of all, of whom all but `waits` got a connection at once."""
    served = count - len(waits)
    found = {}
    for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
        index = math.ceil(share * count) - 1 - served
        found[name] = waits[index] if waits and index >= 0 else 0.0
    return found


def _never(size: int, count: int, timeout: float) -> Prediction:
    """Return what a pool does of which nothing is left for those who come."""
    full = {"mean": timeout, "p50": timeout, "p95": timeout, "p99": timeout}
    return Prediction(size=size, acquires=count, queued=1.0, timeouts=1.0, utilization=1.0, **full)

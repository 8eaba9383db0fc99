"""How large a pool can be, and should be: published rules, and laws that need measurements.

The rules are quoted, not recommended: they know cores and disks, and nothing of what a site does.
`queueing` predicts from what is measured, `budget` divides what a server has.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final, NamedTuple

from django_poolkit.pools.stats import BUCKETS

# The share of the last bucket that is taken to last as long as its upper bound.
_TAIL: Final = 0.01


def verify_sizes(min_size: int, max_size: int) -> None:
    """Raise ValueError for sizes that no pool can have."""
    if not 0 <= min_size <= max_size or max_size < 1:
        raise ValueError(
            f"min_size {min_size} and max_size {max_size} cannot be: needed is "
            "0 <= min_size <= max_size, and max_size at least 1"
        )


# -- published rules


class Rule(NamedTuple):
    """What a published rule says for some figures."""

    formula: str
    """As it is published, with the figures in it."""
    connections: int
    whose: str
    """Of what the connections are: of the `server`, or of one `pool`."""
    source: str


def connections_of_server(cores: int, spindles: int = 1) -> int:
    """Return `cores * 2 + spindles`, for the whole server.

    PostgreSQL's wiki, "Number Of Database Connections", carried on by HikariCP's "About Pool
    Sizing". `cores` are those of the database's machine, without hyper-threads; `spindles` its
    disks, none where all that is read is in memory. Its example: 8 cores and 1 disk are 17.
    """
    return _positive("cores", cores) * 2 + _positive("spindles", spindles, low=0)


def size_and_overflow(cores: int) -> tuple[int, int]:
    """Return `min(cores * 4, 50)` and half of it: connections kept, and further ones at peaks.

    A rule that goes round in guides to SQLAlchemy's `pool_size` and `max_overflow`, and has no
    named author. `cores` are those of the machine that runs the workers. 4 cores are 16 and 8.
    """
    size = min(_positive("cores", cores) * 4, 50)
    return size, size // 2


def size_in_production(cores: int) -> int:
    """Return `cores * 2 + 4`, from the same guides, for production. 8 cores are 20."""
    return _positive("cores", cores) * 2 + 4


def size_for_requests(concurrent: int, queries: int) -> int:
    """Return `concurrent requests / queries per request * 1.5`, rounded up.

    From the same guides; their example is 100 requests with 3 queries each, which are 50. It
    takes a request to hold a connection for less time the more queries it makes, which is seldom
    so.
    """
    return -(-3 * _positive("concurrent", concurrent) // (2 * _positive("queries", queries)))


def size_without_deadlock(threads: int, at_once: int) -> int:
    """Return `threads * (at_once - 1) + 1`: the smallest pool that cannot wait for itself.

    HikariCP's "About Pool Sizing", "Pool-locking": `threads` of which each needs `at_once`
    connections at a time. Its examples: 3 threads with 4 are 10, and 8 with 3 are 17.
    """
    return _positive("threads", threads) * (_positive("at_once", at_once) - 1) + 1


def rules(cores: int, spindles: int = 1) -> list[Rule]:
    """Return what the rules say that need no more than a machine."""
    size, overflow = size_and_overflow(cores)
    guides = "guides to SQLAlchemy"
    return [
        Rule(
            f"{cores} * 2 + {spindles}",
            connections_of_server(cores, spindles),
            "server",
            "PostgreSQL wiki, HikariCP",
        ),
        Rule(f"min({cores} * 4, 50), and half of it more", size + overflow, "pool", guides),
        Rule(f"{cores} * 2 + 4", size_in_production(cores), "pool", guides),
    ]


def _positive(name: str, value: int, low: int = 1) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        raise ValueError(f"{name} must be a whole number of at least {low}, not {value!r}")
    return value


# -- laws


def mean_used(rate: float, use: float) -> float:
    """Return how many connections are leased on average: `rate` per second, for `use` seconds.

    Little's law, L = λW (J. D. C. Little, "A Proof for the Queuing Formula", Operations Research
    9, 1961). It holds whatever the distributions are, as long as what arrives also leaves.
    """
    return rate * use


def erlang_c(size: int, offered: float) -> float:
    """Return the share of acquires that have to wait, by Erlang's second formula (1917).

    For `size` connections, of which `offered` would be leased on average were there enough;
    arrivals by chance, and exponential use times. 1.0 where the queue never ends.
    """
    _positive("size", size)
    if offered >= size:
        return 1.0
    blocked = 1.0  # his first formula, by its recurrence, which does not overflow
    for number in range(1, size + 1):
        blocked = offered * blocked / (number + offered * blocked)
    return blocked / (1 - offered / size * (1 - blocked))


def erlang_wait(size: int, offered: float, use: float, share: float) -> float:
    """Return the seconds that the given share of acquires waits at most, 0.99 for the p99.

    For the same pool as `erlang_c()`, with `use` seconds a lease on average; infinity where the
    queue never ends.
    """
    if offered >= size:
        return math.inf
    waiting, late = erlang_c(size, offered), 1 - share
    if waiting <= late:
        return 0.0
    return math.log(waiting / late) * use / (size - offered)


# -- what was measured


@dataclass(frozen=True, slots=True)
class UseTimes:
    """For how long connections are leased, as a histogram and its exact mean tell it."""

    counts: tuple[int, ...]
    """Leases in each bucket of `BUCKETS`, and beyond."""
    sum: float
    """Seconds of them all."""

    def __post_init__(self) -> None:
        if len(self.counts) != len(BUCKETS) + 1 or min(self.counts) < 0 or not self.count:
            raise ValueError("there must be a count for each bucket, and one above 0")

    @classmethod
    def exponential(cls, mean: float) -> UseTimes:
        """Return exponential times with a mean in seconds, where nothing has been measured."""
        if not 0 < mean < math.inf:
            raise ValueError(f"the mean must be seconds above 0, not {mean!r}")
        total = 1_000_000
        below = [round(total * -math.expm1(-bound / mean)) for bound in BUCKETS]
        counts = [high - low for low, high in zip([0, *below], [*below, total], strict=True)]
        return cls(tuple(counts), mean * total)

    @classmethod
    def merged(cls, parts: Sequence[UseTimes]) -> UseTimes:
        """Return the times of several processes together."""
        counts = tuple(map(sum, zip(*(part.counts for part in parts), strict=True)))
        return cls(counts, sum(part.sum for part in parts))

    @property
    def count(self) -> int:
        """Leases in all."""
        return sum(self.counts)

    @property
    def mean(self) -> float:
        """Seconds on average, exactly."""
        return self.sum / self.count

    def table(self, size: int) -> list[float]:
        """Return so many times in seconds, ascending, each as likely as any other.

        How times lie within a bucket nobody knows. Between its bounds the share of leases that
        last longer is taken to fall by a constant rate, as if what is left of a lease did not
        depend on its age; all are then bent towards one end, until the mean is as it was
        measured.
        """
        ends, bounds = list(accumulate(self.counts)), (0.0, *BUCKETS, self._last)
        ranks = ((number + 0.5) / size * self.count for number in range(size))
        places = [_place(rank, ends, bounds) for rank in ranks]

        def bent(power: float) -> list[float]:
            return [low + width * within**power for low, width, within in places]

        least, most = math.log(0.001), math.log(1000.0)
        for _ in range(25):
            power = (least + most) / 2
            longer = sum(bent(math.exp(power))) > self.mean * size
            least, most = (power, most) if longer else (least, power)
        return bent(math.exp(least))

    @property
    def _last(self) -> float:
        """Where the bucket without an end shall end: so that the mean can be had."""
        if not (beyond := self.counts[-1]):
            return 2 * BUCKETS[-1]
        below = zip((0.0, *BUCKETS[:-1]), self.counts[:-1], strict=True)
        rest = sum(low * count for low, count in below)
        return max(2 * BUCKETS[-1], (self.sum - rest) / beyond * 2)


def _place(rank: float, ends: Sequence[int], bounds: Sequence[float]) -> tuple[float, float, float]:
    """Return the bucket of a rank, as its low bound and its width, and a place in it.

    `ends` are the counts up to the end of each bucket, `bounds` where each begins and ends.
    """
    bucket = bisect_left(ends, rank)
    count, begun = ends[-1], ends[bucket - 1] if bucket else 0
    longer, beyond = count - begun, count - ends[bucket]
    # After the last one it would have to fall for ever.
    fall = math.log(longer / max(beyond, longer * _TAIL))
    within = math.log(longer / max(count - rank, longer * _TAIL)) / fall
    return bounds[bucket], bounds[bucket + 1] - bounds[bucket], min(within, 1.0)

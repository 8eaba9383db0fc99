"""Figures of a pool: histograms and one frozen snapshot of everything."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

# Seconds. From half a millisecond, below which waiting is not felt, to half a minute, the
# longest default timeout among the pools compared in HikariCP's and psycopg_pool's settings.
BUCKETS: Final = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class HistogramStats:
    """A histogram at one moment."""

    buckets: tuple[float, ...]
    """Upper bounds in seconds, each inclusive, ascending."""
    counts: tuple[int, ...]
    """Observations per bucket, not cumulative; one more than `buckets`, the last is +Inf."""
    sum: float
    """Seconds observed in all."""

    @property
    def count(self) -> int:
        """Number of observations."""
        return sum(self.counts)

    def quantile(self, q: float) -> float:
        """Estimate the `q`-quantile (0 to 1) in seconds: the upper bound of its bucket.

        0.0 where nothing was observed; infinity beyond the last bound.
        """
        total = self.count
        if not total:
            return 0.0
        seen, rank = 0, q * total
        for bound, count in zip((*self.buckets, float("inf")), self.counts, strict=True):
            seen += count
            if count and seen >= rank:
                return bound
        return float("inf")


class Histogram:
    """Counts durations. Not locked: its owner's lock guards it."""

    __slots__ = ("_counts", "_sum")

    def __init__(self) -> None:
        self._counts = [0] * (len(BUCKETS) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration in seconds."""
        self._counts[bisect_left(BUCKETS, seconds)] += 1
        self._sum += seconds

    def observe_all(self, durations: Sequence[float]) -> None:
        """Count many durations, in seconds."""
        counts, least = self._counts, BUCKETS[0]
        for seconds in durations:
            counts[0 if seconds <= least else bisect_left(BUCKETS, seconds)] += 1
        self._sum += sum(durations)

    def snapshot(self) -> HistogramStats:
        """Return the counts so far as a value that changes no more."""
        return HistogramStats(BUCKETS, tuple(self._counts), self._sum)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseStats:
    """One acquired connection, for those who look for who holds what."""

    key: int
    """Names it among all leases of its pool, now and ever."""
    seconds: float
    """How long it has been held."""
    thread: str
    """Name of the thread that acquired it."""
    where: str | None = None
    """The method and the view of the request it was acquired in, None outside of one."""
    statement: str | None = None
    """The first word of the last statement, None before the first: of its text nothing else."""
    status: str = "unknown"
    """`active`, `idle`, `intrans`, `inerror`, as libpq sees the connection, or `unknown`."""
    pinned: str | None = None
    """Why it is held until its owner closes, None while it is not."""
    backend_pid: int
    """Process id of its server process, 0 where that is not known."""
    stack: tuple[str, ...]
    """Where it was acquired, innermost call first: `module.py:line function`. Empty where its
    stack was not taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareStats:
    """One share of a pool at one moment."""

    used: int
    """Connections leased by it."""
    max_used: int
    """Connections that it may hold at once."""
    waiters: int
    """Who waits for one, for want of a connection or because the share is used up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStats:
    """A pool at one moment, taken in one critical section.

    `size == idle + used + connecting` holds in each snapshot that is taken while no thread is
    on its way in or out. Durations are seconds.
    """

    name: str
    aliases: tuple[str, ...] = ()
    """The names it serves, the first of which is its own."""
    kind: str = "postgresql"
    """`postgresql`, `asyncpg`, or `http`: a client session, whose leases are those of requests."""
    mode: str
    """`session`, `transaction` or `request`: with what a lease ends."""
    state: str
    """`open`, `paused` or `closed`."""
    pause_left: float = 0.0
    """Seconds until a pause ends by itself, 0.0 where there is none."""
    min_size: int
    max_size: int
    size: int
    """All of its connections: idle, used, and being connected."""
    idle: int
    used: int
    connecting: int
    probing: int = 0
    """Connections beside the pool, and beside its size, by which its server is asked how it is."""
    lag: float | None = None
    """Seconds by which its server is behind its primary, None where nobody looks or can tell."""
    lag_bytes: int | None = None
    """The same in bytes of the primary's log."""
    waiters: int
    oldest_waiter: float
    """Seconds the first of the queue has waited, 0.0 where nobody waits."""
    oldest_lease: float
    """Seconds the oldest lease has been held, 0.0 where nothing is leased."""
    standstill: float = 0.0
    """Seconds since a lease last began or ended, 0.0 where nothing is leased."""
    acquired: int
    """Leases given out since the pool was made."""
    waited: int
    """Leases that had to queue first."""
    timeouts: int
    too_many_waiters: int
    """Acquires refused because the queue was full."""
    connects: int
    connect_errors: int
    errors: Mapping[str, int] = field(default_factory=dict)
    """Requests of a client session that failed, by the class of the error; else empty."""
    closed: Mapping[str, int] = field(default_factory=dict)
    """Connections closed, by reason."""
    resets: int
    pins: Mapping[str, int] = field(default_factory=dict)
    """Leases that had to be held on to in transaction mode, by the first reason; in session mode
    with `observe`, those that would have to be."""
    leaks: int
    """Leases that were lost and taken back."""
    shares: Mapping[str, ShareStats] = field(default_factory=dict)
    """The shares of the pool, by name; empty where none are set."""
    overdue: int
    """Leases that were held for longer than `leak_after`, whether they came home or not."""
    evictions: Mapping[str, int] = field(default_factory=dict)
    """How often its server was not to be read any more, as a replica, by reason."""
    read_retries: Mapping[str, int] = field(default_factory=dict)
    """Reads that failed on its server, and were made again on another one, by reason."""
    retries: Mapping[str, int] = field(default_factory=dict)
    """Reads that failed, and were made again on any connection: single statements (`statement`),
    and calls of `retry_read()` as a whole (`call`)."""
    last_connect_error: str | None
    """Class, SQLSTATE and first line of the newest failed connect since the last good one, or
    the class of what a user's `check` raised."""
    wait: HistogramStats
    """Seconds queued for, by those who had to queue."""
    use: HistogramStats
    """Seconds leased for."""
    connect: HistogramStats
    """Seconds a physical connect took."""

    @property
    def waits(self) -> HistogramStats:
        """Seconds queued for, by all who acquired: who did not have to queue waited 0.0."""
        first, *others = self.wait.counts
        counts = (first + max(0, self.acquired - self.waited), *others)
        return HistogramStats(self.wait.buckets, counts, self.wait.sum)

    @property
    def utilization(self) -> float:
        """Used connections as a share of `max_size`, 0.0 to 1.0."""
        return self.used / self.max_size

    @property
    def saturated(self) -> bool:
        """Whether somebody waits."""
        return self.waiters > 0

    def as_dict(self) -> dict[str, Any]:
        """Return the snapshot as plain values, ready for JSON."""
        return asdict(self)

    def summary(self) -> str:
        """Return the one line that belongs into an error: counts, ages, and the last cause."""
        parts = [f"used {self.used}/{self.max_size}", f"idle {self.idle}"]
        if self.connecting:
            parts.append(f"connecting {self.connecting}")
        parts.append(f"waiters {self.waiters}")
        if self.used:
            parts.append(f"oldest lease {self.oldest_lease:.2f} s")
        line = ", ".join(parts)
        if self.last_connect_error:
            line += f"; last connect error: {self.last_connect_error}"
        return line

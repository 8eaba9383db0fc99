"""What running processes ask of their pools, told from what they say of themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from django_poolkit.pools.queueing import Load
from django_poolkit.pools.sizing import UseTimes
from django_poolkit.pools.stats import BUCKETS, HistogramStats

FEWEST: Final = 100
"""Leases of which a p99 can be told at all."""
LATELY: Final = "last minute"
SINCE_START: Final = "since start"
GIVEN: Final = "given"
_LONG: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Waits:
    """What was waited for connections in the busiest process, in seconds."""

    count: int
    queued: float
    """Share of the leases that waited for longer than the first bound, half a millisecond."""
    p50: float | None
    """Upper bounds of buckets; None beyond the last bound."""
    p99: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """The processes that run one command, and their pools of one name."""

    pool: str
    aliases: tuple[str, ...]
    command: str
    mode: str
    pids: tuple[int, ...]
    max_size: int
    """The largest of theirs."""
    source: str
    """`last minute`, `since start`, or `given` where it was not measured."""
    load: Load | None
    """What is asked of the busiest of them. None where too little was asked for to tell."""
    average: float = 0.0
    """Acquires per second of one of them, on average."""
    use_p99: float | None = None
    waits: Waits | None = None
    spread_over: int = 0
    """Processes of a host that share the work evenly, as was supposed; 0 where it is as it was."""

    def spread(self, processes: int) -> Kind:
        """Return the same work, done evenly by so many processes."""
        if self.load is None or not self.load.rate:
            return self
        average = self.average * len(self.pids) / processes
        load = self.load.times(average / self.load.rate)
        return replace(self, load=load, average=average, spread_over=processes)


def measure(processes: Sequence[Mapping[str, Any]], *, since_start: bool = False) -> list[Kind]:
    """Return what is asked of the pools of each kind of processes, the busiest kind first.

    `processes` are results of `status` with `leases`. The last minute counts where enough has
    happened in it, else the whole life of the processes, which `since_start` asks for.
    """
    kinds: dict[tuple[str, str], list[_Seen]] = {}
    for process in processes:
        for pool in process["pools"]:
            if pool["kind"] == "postgresql":
                seen = _Seen(process, pool)
                kinds.setdefault((pool["name"], process["command"]), []).append(seen)
    found = [_kind(seen, since_start=since_start) for seen in kinds.values()]
    return sorted(found, key=lambda kind: -(kind.load.offered if kind.load else 0.0))


@dataclass(frozen=True, slots=True)
class _Seen:
    """One pool of one process."""

    process: Mapping[str, Any]
    pool: Mapping[str, Any]

    def held(self, seconds: float) -> int:
        """Return how many leases are older than all that was looked at."""
        name = self.pool["name"]
        leases = self.process.get("leases", ())
        return sum(each["pool"] == name and each["seconds"] > seconds for each in leases)

    def part(self, source: str) -> _Part:
        """Return what happened in the last minute, or in its life."""
        if source == LATELY:
            recent = self.pool["recent"]
            asked = tuple((length, rate) for length, rate in recent["asked"])
            use, wait = recent["use"], recent["wait"]
            return _Part(self, asked, _histogram(use), _histogram(wait))
        age, pool = max(self.process["age"], 0.001), self.pool
        asks = pool["acquired"] + pool["timeouts"] + pool["too_many_waiters"]
        wait = _histogram(pool["wait"])
        first, *others = wait.counts
        free = max(0, pool["acquired"] - pool["waited"])
        wait = HistogramStats(BUCKETS, (first + free, *others), wait.sum)
        return _Part(self, ((age, asks / age),), _histogram(pool["use"]), wait)


@dataclass(frozen=True, slots=True)
class _Part:
    seen: _Seen
    asked: tuple[tuple[float, float], ...]
    use: HistogramStats
    wait: HistogramStats

    @property
    def seconds(self) -> float:
        return sum(length for length, _ in self.asked)

    @property
    def rate(self) -> float:
        return sum(length * rate for length, rate in self.asked) / self.seconds


def _histogram(found: Mapping[str, Any]) -> HistogramStats:
    return HistogramStats(BUCKETS, tuple(found["counts"]), found["sum"])


def _kind(seen: Sequence[_Seen], *, since_start: bool) -> Kind:
    parts: list[_Part] = []
    source, count = SINCE_START, 0
    for source in (SINCE_START,) if since_start else (LATELY, SINCE_START):
        parts = [each.part(source) for each in seen]
        count = sum(part.use.count for part in parts)
        if count >= FEWEST:
            break
    one = seen[0]
    kind = Kind(
        pool=one.pool["name"],
        aliases=tuple(dict.fromkeys(alias for each in seen for alias in each.pool["aliases"])),
        command=one.process["command"],
        mode=" and ".join(sorted({each.pool["mode"] for each in seen})),
        pids=tuple(each.process["pid"] for each in seen),
        max_size=max(each.pool["max_size"] for each in seen),
        source=source,
        load=None,
    )
    return kind if count < FEWEST else _with_load(kind, parts)


def _with_load(kind: Kind, parts: Sequence[_Part]) -> Kind:
    counts = tuple(map(sum, zip(*(part.use.counts for part in parts), strict=True)))
    use = UseTimes(counts, sum(part.use.sum for part in parts))
    busiest = max(parts, key=lambda part: part.rate)
    held = max(part.seen.held(min(part.seconds, _LONG)) for part in parts)
    return replace(
        kind,
        load=Load(asked=busiest.asked, use=use, held=held),
        average=sum(part.rate for part in parts) / len(parts),
        use_p99=_known(HistogramStats(BUCKETS, counts, use.sum).quantile(0.99)),
        waits=_waits(busiest.wait),
    )


def _waits(wait: HistogramStats) -> Waits | None:
    if not wait.count:
        return None
    return Waits(
        count=wait.count,
        queued=1 - wait.counts[0] / wait.count,
        p50=_known(wait.quantile(0.5)),
        p99=_known(wait.quantile(0.99)),
    )


def _known(value: float) -> float | None:
    return value if value <= BUCKETS[-1] else None

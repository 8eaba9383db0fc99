"""What is measured: one table of names, and how each figure is read from a pool's status.

Everybody who shows figures reads this table: the collector, the files of several processes,
OpenTelemetry, `poolstatus`, and the tests of the dashboard, the alerts and the reference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from operator import add
from typing import Final, Literal

from django_poolkit.metrics import statuses
from django_poolkit.metrics.statuses import Status, Value
from django_poolkit.pools.stats import BUCKETS

Series = tuple[str, str]
"""A pool's name, or of whatever else it is a figure; and the value of the family's own label, `""`
where it has none."""

LE: Final = (*map(repr, BUCKETS), "+Inf")
"""The upper bounds of all histograms, as the values of the label `le`."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Family:
    """One metric: a series for each pool, or for each pool and value of `label`."""

    name: str
    """As it is exposed: that of a counter ends in `_total`."""
    kind: Literal["gauge", "counter", "histogram"]
    help: str
    read: Callable[[Status], Mapping[str, Value]]
    """Returns the figures of one pool by the value of `label`."""
    label: str | None = None
    """The label that it has beside `of`. Its values are words of the code, a few dozen."""
    of: str = "pool"
    """The label that says of what it is a figure."""
    across: Literal["sum", "max"] = "sum"
    """How figures of several pools or processes become one."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of all of its labels."""
        return (self.of, self.label) if self.label else (self.of,)

    def values(self, series: Series) -> tuple[str, ...]:
        """Return the values of its labels, in order."""
        return series[: len(self.labels)]

    def merge(self, one: Value, other: Value) -> Value:
        """Return two figures as one."""
        return max(one, other) if self.across == "max" else tuple(map(add, one, other))


Figures = dict[Family, dict[Series, Value]]
"""All figures of a process, or of several."""


def merged(statuses: Iterable[Status]) -> Figures:
    """Return the figures of pools, those of one name as one."""
    figures: Figures = {family: {} for family in FAMILIES}
    for status in statuses:
        for family, found in figures.items():
            for key, value in family.read(status).items():
                series = (status["name"], key)
                found[series] = family.merge(found[series], value) if series in found else value
    return figures


def cumulative(value: Value) -> Iterable[float]:
    """Return the counts of a histogram as Prometheus shows them: each bucket with all below."""
    return accumulate(value[:-1])


COLLECT_ERRORS: Final = Family(
    name="poolkit_collect_errors_total",
    kind="counter",
    help="Times that a pool could not be read. The figures of the others are not touched by it.",
    read=lambda status: {},  # it is not the pool that knows
)
FLOORS: Final = Family(
    name="poolkit_floors_total", kind="counter", label="outcome", of="cluster",
    help="What was done so that visitors see what they have written, by cluster.",
    read=lambda status: {},  # a pool knows nothing of it
)  # fmt: skip
READ_ONLY: Final = Family(
    name="poolkit_read_only",
    kind="gauge",
    help="1 where the primary of a cluster is looked at, and cannot be written; else 0.",
    of="cluster",
    read=lambda status: {},  # nor of this
    across="max",
)
LOSSES: Final = Family(
    name="poolkit_primary_losses_total", kind="counter", label="reason", of="cluster",
    help="Times that the primary of a cluster was found not to be one any more, by reason.",
    read=lambda status: {},  # nor of this
)  # fmt: skip
DECISIONS: Final = Family(
    name="poolkit_routing_decisions_total", kind="counter", label="reason", of="cluster",
    help="Answers of the router to where something is read, by cluster and reason.",
    read=lambda status: {},  # nor of this
)  # fmt: skip
SLOW_SLICES: Final = Family(
    name="poolkit_slow_slices_total", kind="counter", of="call",
    help="Times that a call held the event loop for too long, by the function that ran.",
    read=lambda status: {},  # nor of this
)  # fmt: skip
FAMILIES: Final = (
    Family(
        name="poolkit_connections",
        kind="gauge",
        help="Connections by state. Idle, used and connecting are the size of the pool; probe is "
        "beside it.",
        label="state",
        read=statuses.connections,
    ),
    Family(
        name="poolkit_connections_max",
        kind="gauge",
        help="Connections that the pool may have at most.",
        read=statuses.until_closed("max_size"),
    ),
    Family(
        name="poolkit_connections_min",
        kind="gauge",
        help="Connections that the pool keeps although nobody needs them.",
        read=statuses.until_closed("min_size"),
    ),
    Family(
        name="poolkit_utilization_ratio",
        kind="gauge",
        help="Used connections as a share of the most; of the process where it is highest.",
        read=statuses.utilization,
        across="max",
    ),
    Family(
        name="poolkit_pools",
        kind="gauge",
        help="Processes that have the pool, by its state there.",
        label="state",
        read=statuses.state,
    ),
    Family(
        name="poolkit_waiters",
        kind="gauge",
        help="Callers in the queue for a connection.",
        read=statuses.one("waiters"),
    ),
    Family(
        name="poolkit_share_connections",
        kind="gauge",
        label="share",
        help="Connections that are leased by one share of the pool.",
        read=statuses.of_shares("used"),
    ),
    Family(
        name="poolkit_share_connections_max",
        kind="gauge",
        label="share",
        help="Connections that the share may hold at once.",
        read=statuses.of_shares("max_used"),
    ),
    Family(
        name="poolkit_share_waiters",
        kind="gauge",
        label="share",
        help="Callers in the queue for a connection of the share.",
        read=statuses.of_shares("waiters"),
    ),
    Family(
        name="poolkit_oldest_waiter_seconds",
        kind="gauge",
        help="How long the first of the queue has waited by now, 0 where nobody waits.",
        read=statuses.one("oldest_waiter"),
        across="max",
    ),
    Family(
        name="poolkit_oldest_lease_seconds",
        kind="gauge",
        help="How long the oldest lease has been held by now, 0 where nothing is leased.",
        read=statuses.one("oldest_lease"),
        across="max",
    ),
    Family(
        name="poolkit_standstill_seconds",
        kind="gauge",
        help="How long no lease has begun or ended, 0 where nothing is leased.",
        read=statuses.one("standstill"),
        across="max",
    ),
    Family(
        name="poolkit_acquires_total",
        kind="counter",
        help="Leases given out.",
        read=statuses.one("acquired"),
    ),
    Family(
        name="poolkit_waits_total",
        kind="counter",
        help="Leases given out to those who had to queue first.",
        read=statuses.one("waited"),
    ),
    Family(
        name="poolkit_timeouts_total",
        kind="counter",
        help="Acquires that got no connection in time.",
        read=statuses.one("timeouts"),
    ),
    Family(
        name="poolkit_too_many_waiters_total",
        kind="counter",
        help="Acquires refused at once because the queue was full.",
        read=statuses.one("too_many_waiters"),
    ),
    Family(
        name="poolkit_connects_total",
        kind="counter",
        help="Connects that succeeded.",
        read=statuses.one("connects"),
    ),
    Family(
        name="poolkit_connect_errors_total",
        kind="counter",
        help="Connects that failed.",
        read=statuses.one("connect_errors"),
    ),
    Family(
        name="poolkit_errors_total",
        kind="counter",
        help="Requests of a client session that failed, by the class of the error.",
        label="reason",
        read=statuses.by("errors"),
    ),
    Family(
        name="poolkit_closed_total",
        kind="counter",
        help="Connections closed, by reason.",
        label="reason",
        read=statuses.by("closed"),
    ),
    Family(
        name="poolkit_resets_total",
        kind="counter",
        help="Sessions reset as their connection came home.",
        read=statuses.one("resets"),
    ),
    Family(
        name="poolkit_pins_total",
        kind="counter",
        help="Leases that transaction mode holds on to, or with observe would have to, by reason.",
        label="reason",
        read=statuses.by("pins"),
    ),
    Family(
        name="poolkit_leaks_total",
        kind="counter",
        help="Leases dropped without a release, and leases held for longer than leak_after.",
        label="kind",
        read=statuses.leaks,
    ),
    Family(
        name="poolkit_replica_lag_seconds",
        kind="gauge",
        help="By how much a replica is behind its primary; where it is looked at, and known.",
        read=statuses.if_known("lag"),
        across="max",
    ),
    Family(
        name="poolkit_replica_lag_bytes",
        kind="gauge",
        help="What a replica has not replayed yet of its primary's log.",
        read=statuses.if_known("lag_bytes"),
        across="max",
    ),
    Family(
        name="poolkit_evictions_total",
        kind="counter",
        help="Times that a replica was not to be read any more, by reason.",
        label="reason",
        read=statuses.by("evictions"),
    ),
    Family(
        name="poolkit_read_retries_total", kind="counter", label="reason",
        help="Reads that failed on a replica, and were made again on another server, by reason.",
        read=statuses.by("read_retries"),
    ),
    Family(
        name="poolkit_retries_total", kind="counter", label="kind", read=statuses.by("retries"),
        help="Reads that failed, and were made again: single statements, and calls as a whole.",
    ),
    Family(
        name="poolkit_wait_seconds",
        kind="histogram",
        help="Time in the queue, of all acquires; of those who did not have to queue it is 0.",
        read=statuses.waits,
    ),
    Family(
        name="poolkit_use_seconds",
        kind="histogram",
        help="Time that leases were held, from acquire to release.",
        read=statuses.histogram("use"),
    ),
    Family(
        name="poolkit_connect_seconds",
        kind="histogram",
        help="Time that successful connects took.",
        read=statuses.histogram("connect"),
    ),
    FLOORS,
    READ_ONLY,
    LOSSES,
    DECISIONS,
    SLOW_SLICES,
    COLLECT_ERRORS,
)  # fmt: skip
"""The table."""

"""What a health check says: one result a check, one report a group, and the worst of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

Status = Literal["pass", "warn", "fail"]
Reason = Literal[
    "unreachable",
    "auth_failed",
    "timeout",
    "saturated",
    "stuck",
    "paused",
    "draining",
    "starting",
    "closed",
    "read_only",
    "replaced",
    "lagging",
    "evicted",
    "config_error",
    "unknown",
]
"""All that an answer ever gives for a cause. What lies behind it is in the log alone."""

_ORDER: Final = ("pass", "warn", "fail")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """A pool as it was when it was looked at. Nothing was acquired for it."""

    size: int
    max_size: int
    used: int
    idle: int
    waiters: int
    utilization: float
    """Used connections as a share of `max_size`, 0.0 to 1.0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What one check has found."""

    name: str
    """`process`, `db:<alias>`, `http:<name>`, `resource:<name>`, or that of a user's check."""
    status: Status
    reason: Reason | None = None
    """Why it is not `pass`."""
    latency: float | None = None
    """Seconds that the probe took, None where there was none to make."""
    figures: Figures | None = None
    """Of a pool or a client session."""
    lag: float | None = None
    """Seconds by which a replica is behind, None for all else."""
    observed: float = 0.0
    """When, on the monotonic clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What the checks of a group have found."""

    group: str
    results: tuple[Result, ...]
    age: float = 0.0
    """Seconds since the oldest of the results was found."""
    max_age: float = 0.0
    """Seconds for which such a report may be given again."""

    @property
    def status(self) -> Status:
        """The worst of its results, `pass` where there are none."""
        return worst(result.status for result in self.results)


def worst(statuses: Iterable[Status]) -> Status:
    """Return the worst of them, `pass` where there are none."""
    return max(statuses, key=_ORDER.index, default="pass")

"""What one run of the load has measured, as plain values."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

TIMEOUT_KINDS = ("503", "PoolTimeout", "TooManyRequests", "client timeout")
"""Failures that mean that nothing was free in time, not that something broke."""

RECOVERY_REQUESTS = 100
"""So many requests at the end of a run must be fault-free for the site to have recovered."""

_IN_JSON = (
    "seconds", "requests", "throughput", "kinds", "failures", "timeouts", "errors", "recovered",
    "peak_in_flight", "peak_at_supplier", "peak_connections", "killed", "alone", "alone_failed",
)  # fmt: skip


@dataclass
class Measures:
    """Counts and times of one run; durations in seconds."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    """Of every request that was answered as it should be."""
    kinds: Counter[str] = field(default_factory=Counter)
    """Requests by what they asked for, answered well or not."""
    failures: Counter[str] = field(default_factory=Counter)
    """Requests that failed, by the kind of failure."""
    faultless: int = 0
    """Requests since the last failure."""
    in_flight: int = 0
    peak_in_flight: int = 0
    peak_at_supplier: int = 0
    """Requests that waited for the supplier at once, as it counts them itself."""
    connections: int = 0
    peak_connections: int = 0
    """Client connections to the primary, as it counts them itself."""
    killed: int = 0
    """Backends terminated during the run."""
    alone: list[float] = field(default_factory=list)
    """What the few requests took that came one by one after a kill in a quiet hour."""
    alone_failed: int = 0
    """How many of those failed."""

    @property
    def requests(self) -> int:
        """All requests that have come to an end."""
        return len(self.latencies) + self.failures.total()

    @property
    def throughput(self) -> float:
        """Requests answered well, a second."""
        return len(self.latencies) / self.seconds if self.seconds else 0.0

    @property
    def timeouts(self) -> int:
        """Failures that mean waiting in vain."""
        return sum(self.failures[kind] for kind in TIMEOUT_KINDS)

    @property
    def errors(self) -> int:
        """All other failures."""
        return self.failures.total() - self.timeouts

    @property
    def recovered(self) -> bool:
        """Whether the last requests were all answered well."""
        return self.faultless >= min(RECOVERY_REQUESTS, max(self.requests // 10, 1))

    def percentile(self, share: float) -> float:
        """Return the latency that `share` of the good answers did not exceed; 0.0 of none."""
        if not self.latencies:
            return 0.0
        ranked = sorted(self.latencies)
        return ranked[max(math.ceil(share * len(ranked)) - 1, 0)]

    def record(self, kind: str, seconds: float, failure: str | None) -> None:
        """Count one request that has come to an end."""
        self.kinds[kind] += 1
        if failure is None:
            self.latencies.append(seconds)
            self.faultless += 1
        else:
            self.failures[failure] += 1
            self.faultless = 0

    def enter(self) -> None:
        """Count one request that sets out."""
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)

    def leave(self) -> None:
        """Count one request that is no longer under way."""
        self.in_flight -= 1

    def saw_connections(self, count: int) -> None:
        """Count the connections that the server shows."""
        self.connections = count
        self.peak_connections = max(self.peak_connections, count)

    def saw_at_supplier(self, count: int) -> None:
        """Count the requests that waited for the supplier at once, as it says."""
        self.peak_at_supplier = max(self.peak_at_supplier, count)

    def as_json(self) -> dict[str, Any]:
        """Return everything but the single latencies, for a file."""
        shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
        values = {name: getattr(self, name) for name in _IN_JSON}
        return values | {name: self.percentile(share) for name, share in shares.items()}

"""What figures and a probe come down to: pass, warn or fail, and why.

A probe says whether the server is there, and the figures whether the pool gets by with what it has.
Neither may stand for the other: a busy pool is no dead database, and a healthy database is no help
to those who wait in front of a pool that stands still.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from django_poolkit.conf.health import HealthConfig
from django_poolkit.health.report import Figures, Reason, Result, Status, worst
from django_poolkit.pools.postgres.prober import Answer, Cause
from django_poolkit.pools.stats import PoolStats
from django_poolkit.routing.breaker import Reason as Eviction
from django_poolkit.routing.lag import REPLACED, Refusal

_ORDER: Final = ("pass", "warn", "fail")
Verdict = tuple[Status, Reason | None]

PASS: Final[Verdict] = ("pass", None)
# For these a replica is read no more, and another server in its place.
_PASSED_BY: Final[frozenset[Reason | None]] = frozenset(
    {"unreachable", "auth_failed", "timeout", "config_error", "unknown"}
)
# By these it is only too far behind.
_BEHIND: Final[frozenset[Eviction]] = frozenset({"lag", "cut"})


def figures_of(stats: PoolStats) -> Figures:
    """Return what a report shows of a pool or client session."""
    return Figures(
        size=stats.size,
        max_size=stats.max_size,
        used=stats.used,
        idle=stats.idle,
        waiters=stats.waiters,
        utilization=stats.utilization,
    )


def of_state(stats: PoolStats) -> Verdict | None:
    """Return what a pool's state decides alone; None where the server has to be asked."""
    if stats.state == "open":
        return None
    return "fail", "paused" if stats.state == "paused" else "closed"


def of_server(
    found: Answer | Cause, stats: PoolStats | None, *, replica: bool, config: HealthConfig
) -> Verdict:
    """Return what a probe decides. `replica` says whether the alias need not be able to write."""
    if isinstance(found, str):
        # It refuses connections because it has no more: those of the pool go on working.
        at_work = stats is not None and stats.used + stats.idle > 0
        return "warn" if found == "saturated" and at_work else "fail", found
    if not replica:
        return ("fail", "read_only") if found.in_recovery or found.read_only else PASS
    if not found.in_recovery:
        return PASS
    if found.lag is None:  # it has replayed nothing yet, and nobody sends to it
        return "warn", "lagging"
    if config.lag_fail is not None and found.lag > config.lag_fail:
        return "fail", "lagging"
    return ("warn", "lagging") if found.lag > config.lag_warn else PASS


def of_replica(verdict: Verdict, *, replaceable: bool, evicted: Eviction | None) -> Verdict:
    """Return what becomes of a replica's verdict by what the router makes of it.

    `replaceable` says whether something else is read where it is down, and `evicted` why it is
    not read at present.
    """
    status, reason = verdict
    if replaceable and status == "fail" and reason in _PASSED_BY:
        verdict = "warn", reason
    if evicted is None:
        return verdict
    return worse(verdict, ("warn", "lagging" if evicted in _BEHIND else "evicted"))


def of_primary(verdict: Verdict, refused: Refusal | None) -> Verdict:
    """Return what becomes of a primary's verdict by why the router does not take it for one.

    One that was replaced answers, and takes writes, as if nothing had happened.
    """
    return worse(verdict, ("fail", "replaced")) if refused in REPLACED else verdict


def of_pool(stats: PoolStats, *, stuck_after: float) -> Verdict:
    """Return what the figures of an open pool or client session decide."""
    if not stats.waiters:
        return PASS
    # Of a client session who waits stands before the limit of one loop or host, and not of all.
    # Until a connect has ended nobody knows: an old stream to another host says nothing of it.
    full = not stats.connecting if stats.kind == "http" else stats.used >= stats.max_size
    if full and stats.standstill >= stuck_after:
        return "fail", "stuck"
    return "warn", "saturated"


def worse(one: Verdict, other: Verdict) -> Verdict:
    """Return the worse of two; where neither is, the first."""
    return one if worst([one[0], other[0]]) == one[0] else other


def of_hosts(name: str, results: Sequence[Result]) -> Result:
    """Return what the hosts of one alias come down to: it fails where all of them do.

    Latency and lag are the longest of any, figures the sums of all.
    """
    first = max(results, key=lambda each: _ORDER.index(each.status))
    status: Status = first.status
    if status == "fail" and any(each.status != "fail" for each in results):
        status = "warn"  # the others are read from
    figures = [each.figures for each in results if each.figures is not None]
    return Result(
        name=name,
        status=status,
        reason=first.reason,
        latency=max((each.latency for each in results if each.latency is not None), default=None),
        lag=max((each.lag for each in results if each.lag is not None), default=None),
        figures=_sum(figures) if figures else None,
    )


def _sum(figures: Sequence[Figures]) -> Figures:
    size, most, used, idle, waiters = (
        sum(getattr(each, key) for each in figures)
        for key in ("size", "max_size", "used", "idle", "waiters")
    )
    return Figures(
        size=size, max_size=most, used=used, idle=idle, waiters=waiters, utilization=used / most
    )


def result(name: str, verdict: Verdict, stats: PoolStats | None = None) -> Result:
    """Return a verdict as the result of a check, with the figures that it is about."""
    status, reason = verdict
    figures = None if stats is None else figures_of(stats)
    return Result(name=name, status=status, reason=reason, figures=figures)

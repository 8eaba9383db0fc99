"""What the process itself knows of its health. Nobody is asked, so it is never out of date."""

from __future__ import annotations

from time import monotonic

from django_poolkit import registry
from django_poolkit.health.report import Reason, Result
from django_poolkit.lifespan import course
from django_poolkit.lifespan.keeper import Keeper

NAME = "process"


def readiness() -> list[Result]:
    """Return whether requests may be sent here, and how each resource of the lifespan is."""
    return [_process(_why_not()), *_resources(all_of_them=True)]


def startup() -> list[Result]:
    """Return whether all is open that the process must not be without."""
    ended = _ended()
    return [_process("closed" if ended else None), *_resources(all_of_them=False)]


def _process(reason: Reason | None) -> Result:
    status = "pass" if reason is None else "fail"
    return Result(name=NAME, status=status, reason=reason, observed=monotonic())  # type: ignore[arg-type]


def _why_not() -> Reason | None:
    if _ended():
        return "closed"
    if registry.process.draining:
        return "draining"
    if any(pool.stats().state == "paused" for pool in (*registry.pools, *registry.asyncpg)):
        return "paused"
    return None


def _ended() -> bool:
    span = course.current()
    return span is not None and span.closed


def _resources(*, all_of_them: bool) -> list[Result]:
    span = course.current()
    if span is None:  # no server has sent a lifespan: they open at their first use
        return []
    keepers = [span.keeper(name) for name in span.status()]
    return [
        _resource(keeper)
        for keeper in keepers
        if keeper is not None and (all_of_them or keeper.resource.required)
    ]


def _resource(keeper: Keeper) -> Result:
    state, now = keeper.status.state, monotonic()
    name = f"resource:{keeper.name}"
    if state == "ready":
        return Result(name=name, status="pass", observed=now)
    reason: Reason = "starting" if state == "pending" else "unknown"
    if state == "closed":
        reason = "closed"
    status = "fail" if keeper.resource.required else "warn"
    return Result(name=name, status=status, reason=reason, observed=now)  # type: ignore[arg-type]

"""A report as JSON, as `application/health+json` and as text. Without details: the status alone."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, Final

from django_poolkit.health import page
from django_poolkit.health.negotiation import HEALTH_JSON, HTML, JSON, TEXT
from django_poolkit.health.report import Figures, Report, Result

_DIGITS: Final = 6  # microseconds
_SHARE_DIGITS: Final = 4
_COMPONENTS: Final = {"db": "datastore", "process": "system"}


def written(report: Report, kind: str, *, details: bool) -> bytes:
    """Return a report in one of the content types of `negotiation.OFFERED`."""
    if not details:
        return _brief(report.status, kind).encode()
    return _WRITERS[kind](report).encode()


def as_json(report: Report) -> dict[str, Any]:
    """Return a report as plain data, keys as in the widely copied recipe next to our own.

    `{"status", "group", "age", "latency", "latency_ms", "pool_size", "pool_checked_out",
    "checks": {name: {"status", "reason", "latency", "latency_ms", "lag", "pool_size",
    "pool_checked_out", "pool": {"size", "max_size", "used", "idle", "waiters", "utilization"}}}}`.
    Durations are seconds, `latency_ms` apart. At the top stand the latency of the slowest check
    and the sums over all pools. What there is none of is null.
    """
    latencies = [each.latency for each in report.results if each.latency is not None]
    pools = [each.figures for each in report.results if each.figures is not None]
    return {
        "status": report.status,
        "group": report.group,
        "age": round(report.age, _DIGITS),
        **_latency(max(latencies, default=None)),
        "pool_size": sum(pool.size for pool in pools) if pools else None,
        "pool_checked_out": sum(pool.used for pool in pools) if pools else None,
        "checks": {each.name: _check(each) for each in report.results},
    }


def _check(result: Result) -> dict[str, Any]:
    figures = result.figures
    return {
        "status": result.status,
        "reason": result.reason,
        **_latency(result.latency),
        "lag": _rounded(result.lag),
        "pool_size": None if figures is None else figures.size,
        "pool_checked_out": None if figures is None else figures.used,
        "pool": None if figures is None else _pool(figures),
    }


def _latency(seconds: float | None) -> dict[str, float | None]:
    return {
        "latency": _rounded(seconds),
        "latency_ms": None if seconds is None else round(seconds * 1_000, 3),
    }


def _pool(figures: Figures) -> dict[str, float]:
    return {
        "size": figures.size,
        "max_size": figures.max_size,
        "used": figures.used,
        "idle": figures.idle,
        "waiters": figures.waiters,
        "utilization": round(figures.utilization, _SHARE_DIGITS),
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, _DIGITS)


# -- application/health+json: draft-inadarei-api-health-check-05, section 4


def as_health_json(report: Report) -> dict[str, Any]:
    """Return a report in the shape of the Internet-Draft `inadarei-api-health-check` 05.

    A key of `checks` is the name of a check, with `/` for the colon that a name must not have
    there, and what was measured: `db/default:responseTime`.
    """
    checks: dict[str, list[dict[str, Any]]] = {}
    for result in report.results:
        name = result.name.replace(":", "/")
        for measured, value in _measurements(result):
            checks[f"{name}:{measured}" if measured else name] = [{**_component(result), **value}]
    return {"status": report.status, "description": f"health of {report.group}", "checks": checks}


def _component(result: Result) -> dict[str, Any]:
    ago = max(0.0, time.monotonic() - result.observed)
    observed = datetime.fromtimestamp(time.time() - ago, UTC)
    found = {
        "componentType": _COMPONENTS.get(result.name.partition(":")[0], "component"),
        "status": result.status,
        "time": observed.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
    }
    # It is the place for what went wrong, and not to be there where nothing did.
    return found if result.reason is None else {**found, "output": result.reason}


def _measurements(result: Result) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "", {}
    if result.latency is not None:
        yield "responseTime", _value(_rounded(result.latency), "s")
    if (pool := result.figures) is not None:
        yield "connections", {**_value(pool.used, "connections"), "pool": _pool(pool)}
        yield "utilization", _value(round(100 * pool.utilization, 2), "percent")
    if result.lag is not None:
        yield "replicationLag", _value(_rounded(result.lag), "s")


def _value(observed: float | None, unit: str) -> dict[str, Any]:
    return {"observedValue": observed, "observedUnit": unit}


# -- text


def as_text(report: Report) -> str:
    """Return a report as lines: the status, then a line a check, `name status key=value …`."""
    return "\n".join([report.status, *map(_line, report.results), ""])


def _line(result: Result) -> str:
    facts: dict[str, Any] = {"reason": result.reason}
    facts |= {"latency": _rounded(result.latency), "lag": _rounded(result.lag)}
    if result.figures is not None:
        facts |= _pool(result.figures)
    shown = [f"{key}={value}" for key, value in facts.items() if value is not None]
    return " ".join([_printable(result.name), result.status, *shown])


def _printable(name: str) -> str:
    # A check is named by who wrote it, and a line must stay one.
    return "".join(letter if letter.isprintable() else "?" for letter in name)


# -- all of them


def _brief(status: str, kind: str) -> str:
    if kind == HTML:
        return page.brief(status)
    return f"{status}\n" if kind == TEXT else json.dumps({"status": status}) + "\n"


_WRITERS: Final[dict[str, Callable[[Report], str]]] = {
    JSON: lambda report: json.dumps(as_json(report)) + "\n",
    HEALTH_JSON: lambda report: json.dumps(as_health_json(report)) + "\n",
    TEXT: as_text,
    HTML: page.detailed,
}

"""Answers to `status` as a process gives them, with the figures that a test wants."""

from __future__ import annotations

import json
from typing import Any

from django_poolkit.control import answers
from django_poolkit.control.recent import Recent
from django_poolkit.pools.stats import BUCKETS, HistogramStats
from tests.pools.support import make_stats


class _Pool:
    """Stands for one whose samples nobody has taken."""


def histogram(**counts: int) -> HistogramStats:
    """Return one with so many observations in the bucket of `ms<milliseconds>` or `beyond`."""
    found = dict.fromkeys((*BUCKETS, float("inf")), 0)
    for name, count in counts.items():
        found[float("inf") if name == "beyond" else float(name[2:].replace("_", ".")) / 1000] += (
            count
        )
    assert len(found) == len(BUCKETS) + 1
    return HistogramStats(BUCKETS, tuple(found.values()), 1.0)


def pool(name: str = "default", *, per_second: float = 0.0, **values: Any) -> dict[str, Any]:
    """Return a pool's part of an answer, through the code that makes it."""
    stats = make_stats(**{"name": name, "aliases": (name,), **values})
    recent = Recent().of(_Pool(), stats) | {"acquires_per_second": per_second}
    return stats.as_dict() | {
        "utilization": stats.utilization,
        "saturated": stats.saturated,
        "recent": recent,
    }


def status(pid: int, *pools: dict[str, Any], **values: Any) -> dict[str, Any]:
    """Return a process's answer, as it comes out of a socket."""
    answer = answers.status({"leases": False, "pins": False})
    answer |= {"pid": pid, "pools": list(pools), **values}
    found: dict[str, Any] = json.loads(json.dumps(answer))
    return found


def lease(key: int = 1, *, pid: int = 101, **values: Any) -> dict[str, Any]:
    """Return a lease of an answer."""
    return {
        "id": f"{pid}/default/{key}",
        "pool": "default",
        "key": key,
        "seconds": 1.0,
        "thread": "MainThread",
        "where": "GET shop.views.report",
        "statement": "SELECT",
        "status": "idle",
        "pinned": None,
        "backend_pid": 4242,
        "stack": [],
    } | values


def observed(*rows: tuple[str, str, int, float], held: float, idle: float) -> dict[str, Any]:
    """Return what a pool has observed, from rows of site, reason, count and seconds."""
    names = ("site", "reason", "count", "seconds")
    return {
        "rows": [dict(zip(names, row, strict=True)) for row in rows],
        "held": held,
        "idle": idle,
        "share": idle / held if held else 0.0,
    }

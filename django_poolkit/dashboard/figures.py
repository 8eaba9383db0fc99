"""What the page shows, as plain values: a choice of what the processes say, and no secrets.

Stacks and addresses stay out of it: what there is to see is names, counts, and seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from django_poolkit.control.collect import FINE, WORDS, Report
from django_poolkit.dashboard.history import together

Figures = dict[str, Any]

MOST_LEASES: Final = 200
"""Leases that are shown, the oldest of them."""
MOST_EVENTS: Final = 50

_SUMS: Final = (
    "min_size", "max_size", "size", "idle", "used", "connecting", "waiters", "timeouts",
    "too_many_waiters", "leaks",
)  # fmt: skip
_WORKER: Final = ("state", "mode", "utilization", "oldest_waiter", "oldest_lease", "pause_left")
_LEASE: Final = (
    "id", "pool", "seconds", "where", "thread", "statement", "status", "pinned", "backend_pid",
)  # fmt: skip
_MEMBER: Final = ("cluster", "name", "role", "state", "reason", "age", "share", "lag", "lag_bytes")
_EVENT: Final = ("at", "pool", "event", "reason", "where", "count")


def figures(report: Report) -> Figures:
    """Return a report as the page and its JSON have it."""
    pools = _pools(report.processes)
    return {
        "version": 1,
        "time": report.time,
        "status": WORDS[report.exit_code],
        "problems": [
            {"pid": each.pid, "pool": each.pool, "text": each.text, "bad": each.code != FINE}
            for each in report.problems
        ],
        "processes": [
            {key: process[key] for key in ("pid", "command", "service", "age", "draining")}
            for process in report.processes
        ],
        "pools": [pool for pool in pools if pool["kind"] != "http"],
        "sessions": [pool for pool in pools if pool["kind"] == "http"],
        "leases": _leases(report.processes),
        "replicas": [
            {"pid": process["pid"], **{key: member[key] for key in _MEMBER}}
            for process in report.processes
            for member in process["members"]
        ],
        "events": _events(report.processes),
    }


def _pools(processes: Sequence[Mapping[str, Any]]) -> list[Figures]:
    groups: dict[tuple[str, str], list[tuple[int, Mapping[str, Any]]]] = {}
    for process in processes:
        for pool in process["pools"]:
            groups.setdefault((pool["kind"], pool["name"]), []).append((process["pid"], pool))
    return [_pool(kind, name, parts) for (kind, name), parts in groups.items()]


def _pool(kind: str, name: str, parts: Sequence[tuple[int, Mapping[str, Any]]]) -> Figures:
    workers = [
        {
            "pid": pid,
            **{key: pool[key] for key in (*_SUMS, *_WORKER)},
            "acquires_per_second": pool["recent"]["acquires_per_second"],
            "wait_p95": pool["recent"]["wait"]["p95"],
        }
        for pid, pool in parts
    ]
    sums = {key: sum(worker[key] for worker in workers) for key in _SUMS}
    return {
        "name": name,
        "kind": kind,
        "state": " and ".join(sorted({worker["state"] for worker in workers})),
        "mode": " and ".join(sorted({worker["mode"] for worker in workers})),
        **sums,
        "utilization": sums["used"] / sums["max_size"],
        "oldest_waiter": max(worker["oldest_waiter"] for worker in workers),
        "oldest_lease": max(worker["oldest_lease"] for worker in workers),
        "acquires_per_second": sum(worker["acquires_per_second"] for worker in workers),
        "workers": workers,
        "history": [point._asdict() for point in together(pool for _, pool in parts)],
    }


def _leases(processes: Iterable[Mapping[str, Any]]) -> list[Figures]:
    found = [
        {"pid": process["pid"], **{key: lease[key] for key in _LEASE}}
        for process in processes
        for lease in process.get("leases", ())
    ]
    return sorted(found, key=lambda lease: -lease["seconds"])[:MOST_LEASES]


def _events(processes: Iterable[Mapping[str, Any]]) -> list[Figures]:
    found = [
        {"pid": process["pid"], **{key: event[key] for key in _EVENT}}
        for process in processes
        for event in process.get("events", ())
    ]
    return sorted(found, key=lambda event: -event["at"])[:MOST_EVENTS]

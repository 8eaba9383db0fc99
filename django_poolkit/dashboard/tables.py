"""The figures as tables and charts of words, for the templates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from django_poolkit.control.tables import Cell, duration
from django_poolkit.dashboard.figures import Figures
from django_poolkit.dashboard.history import HEIGHT, SPAN, WIDTH, area, line

_NONE: Final = Cell("-")
_TONES: Final = {"evicted": "bad", "lost": "bad", "trial": "warn", "paused": "warn"}
_HAPPENED: Final = {
    "pool_timeout": "acquire failed",
    "pool_saturated": "all connections leased, somebody waits",
    "lease_leaked": "lease leaked",
    "replica_evicted": "replica not read any more",
    "replica_admitted": "replica read again",
    "primary_lost": "primary lost",
    "primary_found": "primary found",
    "connection_closed": "connection closed",
    "pause": "paused",
    "resume": "resumed",
    "recycle": "recycled",
}


class Column(NamedTuple):
    """The head of a column, and whether numbers are below it."""

    text: str
    number: bool = False


class Row(NamedTuple):
    """Cells, the first of which says what the row is about. `key` stays the same while it does."""

    key: str
    cells: Sequence[Cell]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table; without rows, a sentence in its place."""

    key: str
    title: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    empty: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A picture of the last minutes, and the same in words."""

    key: str
    title: str
    words: str
    line: str
    area: str
    top: str
    """What its upper edge stands for."""
    width: int = WIDTH
    height: int = HEIGHT


class Shown(NamedTuple):
    """A pool: its figures of now, and its charts."""

    pool: Figures
    charts: Sequence[Chart]
    facts: Sequence[tuple[str, Cell]]


def shown(pool: Figures) -> Shown:
    """Return what stands in a pool's section."""
    facts = [
        ("Used", Cell(f"{pool['used']} of {pool['max_size']}", _full(pool))),
        ("Idle", Cell(str(pool["idle"]))),
        ("Waiting", Cell(str(pool["waiters"]), "bad" if pool["waiters"] else "")),
        ("Longest wait now", _seconds(pool["oldest_waiter"])),
        ("Oldest lease", _seconds(pool["oldest_lease"])),
        ("Acquires per second", Cell(f"{pool['acquires_per_second']:.1f}")),
        ("Timeouts", Cell(str(pool["timeouts"]), "warn" if pool["timeouts"] else "")),
        ("Mode", Cell(pool["mode"])),
        ("State", Cell(pool["state"], "" if pool["state"] == "open" else "warn")),
    ]
    return Shown(pool, charts(pool), facts)


def charts(pool: Figures) -> list[Chart]:
    """Return the utilization and the waiters of the last minutes."""
    points = pool["history"]
    shares = [(point["age"], point["used"] / point["max_size"]) for point in points]
    waiting = [(point["age"], float(point["waiters"])) for point in points]
    most_shares = max((value for _, value in shares), default=0.0)
    most_waiting = max((value for _, value in waiting), default=0.0)
    top = max(most_waiting, 4.0)
    key, span = f"{pool['kind']} {pool['name']}", f"in the last {SPAN / 60:.0f} minutes"
    return [
        Chart(
            key=f"utilization {key}",
            title="Utilization",
            words=f"{pool['utilization']:.0%} now, {most_shares:.0%} at most {span}",
            line=line(shares, 1.0),
            area=area(shares, 1.0),
            top="100%",
        ),
        Chart(
            key=f"waiters {key}",
            title="Waiters",
            words=f"{pool['waiters']} now, {most_waiting:.0f} at most {span}",
            line=line(waiting, top),
            area=area(waiting, top),
            top=f"{top:.0f}",
        ),
    ]


def tables(figures: Figures) -> list[Table]:
    """Return all tables, in their order."""
    found = [_workers(figures["pools"]), _leases(figures["leases"])]
    if figures["replicas"]:
        found.append(_replicas(figures["replicas"]))
    if figures["sessions"]:
        found.append(_sessions(figures["sessions"]))
    return [*found, _events(figures["events"])]


def _workers(pools: Iterable[Figures]) -> Table:
    rows = [
        Row(
            f"{pool['kind']} {pool['name']} {worker['pid']}",
            [
                _text(worker["pid"]),
                _text(pool["name"]),
                Cell(worker["state"], _TONES.get(worker["state"], "")),
                Cell(f"{worker['used']} of {worker['max_size']}", _full(worker)),
                Cell(str(worker["idle"])),
                Cell(str(worker["waiters"]), "bad" if worker["waiters"] else ""),
                Cell(f"{worker['acquires_per_second']:.1f}"),
                _seconds(worker["wait_p95"]),
                Cell(str(worker["timeouts"]), "warn" if worker["timeouts"] else ""),
            ],
        )
        for pool in pools
        for worker in pool["workers"]
    ]
    columns = [
        Column("Process"), Column("Pool"), Column("State"), Column("Used", True),
        Column("Idle", True), Column("Waiting", True), Column("Acquires/s", True),
        Column("Wait, p95", True), Column("Timeouts", True),
    ]  # fmt: skip
    empty = "No process has a pool."
    return Table(key="workers", title="Processes", columns=columns, rows=rows, empty=empty)


def _leases(leases: Iterable[Figures]) -> Table:
    words = ("where", "pool", "status", "statement", "pinned", "thread", "id")
    rows = [
        Row(
            lease["id"],
            [
                _text(lease["where"]),
                _seconds(lease["seconds"]),
                *(_text(lease[w]) for w in words[1:]),
            ],
        )
        for lease in leases
    ]
    columns = [
        Column("View or command"), Column("Held for", True), Column("Pool"), Column("Status"),
        Column("Statement"), Column("Pinned by"), Column("Thread or task"), Column("Lease"),
    ]  # fmt: skip
    empty = "Nothing is leased."
    return Table(key="leases", title="Leases", columns=columns, rows=rows, empty=empty)


def _replicas(members: Iterable[Figures]) -> Table:
    rows = [
        Row(
            f"{member['pid']} {member['cluster']} {member['name']}",
            [
                _text(member["name"]),
                _text(member["cluster"]),
                _text(member["role"]),
                Cell(member["state"], _TONES.get(member["state"], "")),
                _text(member["reason"]),
                _NONE if member["lag"] is None else Cell(duration(member["lag"])),
                _text(member["lag_bytes"]),
                Cell(f"{member['share']:.0%}") if member["role"] == "replica" else _NONE,
                _text(member["pid"]),
            ],
        )
        for member in members
    ]
    columns = [
        Column("Server"), Column("Cluster"), Column("Role"), Column("State"), Column("Reason"),
        Column("Lag", True), Column("Bytes behind", True), Column("Share", True),
        Column("Seen by process"),
    ]  # fmt: skip
    return Table(
        key="replicas", title="Primaries and replicas", columns=columns, rows=rows, empty=""
    )


def _sessions(sessions: Iterable[Figures]) -> Table:
    rows = [
        Row(
            f"{session['name']} {worker['pid']}",
            [
                _text(session["name"]),
                _text(worker["pid"]),
                Cell(worker["state"]),
                Cell(f"{worker['used']} of {worker['max_size']}", _full(worker)),
                Cell(str(worker["waiters"]), "bad" if worker["waiters"] else ""),
                Cell(f"{worker['acquires_per_second']:.1f}"),
            ],
        )
        for session in sessions
        for worker in session["workers"]
    ]
    columns = [
        Column("Client session"), Column("Process"), Column("State"), Column("Requests", True),
        Column("Waiting", True), Column("Requests/s", True),
    ]  # fmt: skip
    title = "HTTP client sessions"
    return Table(key="sessions", title=title, columns=columns, rows=rows, empty="")


def _events(events: Iterable[Mapping[str, Any]]) -> Table:
    rows = [
        Row(
            f"{event['pid']} {event['pool']} {event['event']} {event['reason']} {event['at']}",
            [
                Cell(clock(event["at"])),
                _text(event["pool"]),
                _text(_HAPPENED.get(event["event"], event["event"])),
                _text(event["reason"]),
                _text(event["where"]),
                Cell(str(event["count"])),
                _text(event["pid"]),
            ],
        )
        for event in events
    ]
    columns = [
        Column("Time"), Column("Pool"), Column("What happened"), Column("Reason"), Column("View"),
        Column("Times", True), Column("Process"),
    ]  # fmt: skip
    empty = "Nothing that needs attention has happened lately."
    return Table(key="events", title="Recent events", columns=columns, rows=rows, empty=empty)


def clock(at: float) -> str:
    """Return a moment as people read it."""
    # In the zone of the server's log, by which the two can be held against each other.
    moment = datetime.fromtimestamp(at, UTC).astimezone()
    return moment.strftime("%H:%M:%S %Z")


def _text(value: object) -> Cell:
    return _NONE if value in (None, "") else Cell(str(value))


def _seconds(value: float | None) -> Cell:
    return Cell(duration(value)) if value else _NONE


def _full(pool: Mapping[str, Any]) -> str:
    return "warn" if pool["used"] >= pool["max_size"] else ""

"""What `poolstatus` shows of the servers of clusters, and what it finds wrong with them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from django_poolkit.control.tables import Cell, Table, duration, printable

_COLUMNS: Final = (
    "PID", "CLUSTER", "SERVER", "ROLE", "STATE", "REASON", ">FOR", ">SHARE", ">LAG", ">BYTES",
)  # fmt: skip
_TONES: Final = {"evicted": "bad", "lost": "bad", "trial": "warn"}
_NONE: Final = Cell("-")


def wrong_with(member: Mapping[str, Any]) -> tuple[bool, str] | None:
    """Return what is not as it should be with a server, None where nothing is.

    The first says whether it is more than worth to be known.
    """
    why = member["reason"]
    if member["state"] == "lost":
        return True, f"is not taken for the primary of cluster {member['cluster']!r}: {why}"
    if member["state"] == "evicted":
        return True, f"is not read: {why}{_behind(member)}"
    if member["state"] == "trial":
        return False, f"is read by {member['share']:.0%} again, after it was not: {why}"
    return None


def table(processes: Iterable[Mapping[str, Any]]) -> Iterator[Table]:
    """Yield a row for each server that each process has looked at; nothing where none has."""
    rows = [_row(process["pid"], member) for process in processes for member in process["members"]]
    if rows:
        yield Table(title=Cell("Clusters", "head"), columns=_COLUMNS, rows=rows)


def words(processes: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Yield what the line of one tick says: how many replicas there are, and who is not read."""
    members = [member for process in processes for member in process["members"]]
    if members:
        replicas = {each["name"] for each in members if each["role"] == "replica"}
        evicted = {each["name"] for each in members if each["state"] == "evicted"}
        lost = {each["name"] for each in members if each["state"] == "lost"}
        yield f"replicas={len(replicas)} evicted={len(evicted)} primaries_lost={len(lost)}"


def _row(pid: int, member: Mapping[str, Any]) -> list[Cell]:
    tone = _TONES.get(member["state"], "")
    size = member["lag_bytes"]
    replica = member["role"] == "replica"
    return [
        Cell(str(pid)),
        *(Cell(printable(member[key])) for key in ("cluster", "name", "role")),
        Cell(member["state"], tone),
        Cell(member["reason"], tone) if member["reason"] else _NONE,
        _duration(member["age"]),
        Cell(f"{member['share']:.0%}") if replica else _NONE,
        _duration(member["lag"]),
        _NONE if size is None else Cell(str(size)),
    ]


def _duration(seconds: float | None) -> Cell:
    return _NONE if seconds is None else Cell(duration(seconds))


def _behind(member: Mapping[str, Any]) -> str:
    if member["lag_bytes"] is None:
        return ""
    seconds = "" if member["lag"] is None else f"{duration(member['lag'])}, "
    return f" ({seconds}{member['lag_bytes']} bytes behind)"

"""What became of a command of `poolctl`: its exit code, its tables and its sentences."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from django_poolkit.control.client import Answer
from django_poolkit.control.tables import Cell, Table, duration, printable

DONE: Final = 0
NOT_YET: Final = 1
REFUSED: Final = 2
NO_PROCESS: Final = 3

_REFUSALS: Final = frozenset({"refused", "bad_arguments", "unknown_command", "bad_version"})
_KINDS: Final = {**dict.fromkeys(_REFUSALS, "refused by"), "no_answer": "no answer from"}
# Of a pool, what has to do with a command.
_SHOWN: Final = (
    "name", "state", "pause_left", "min_size", "max_size", "size", "used", "idle", "connecting",
    "waiters",
)  # fmt: skip
_POOLS: Final = ("PID", "POOL", "STATE", ">MIN", ">MAX", ">SIZE", ">USED", ">IDLE", ">WAITERS")
_LEASES: Final = ("LEASE", ">HELD", "STATUS", "STATEMENT", "PINNED", "THREAD", "WHERE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a command."""

    command: str
    answers: Sequence[Answer]
    """Of each process, the latest: the state of its pools, or why there is none."""
    missing: Sequence[str] = ()
    """What was named and is not there: processes, leases."""
    unfinished: bool = False
    """Whether something has still to happen."""
    holding: Sequence[Mapping[str, Any]] = ()
    """The leases that keep it from that."""
    until: float = 0.0
    """When a pause ends by itself, by the wall clock; 0.0 where there is none."""

    @property
    def code(self) -> int:
        """The exit code."""
        errors = {answer.error for answer in self.answers} - {None}
        if not self.answers:
            return NO_PROCESS
        if errors & _REFUSALS:
            return REFUSED
        return NOT_YET if errors or self.missing or self.unfinished else DONE

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain values, ready for JSON."""
        return {
            "command": self.command,
            "code": self.code,
            "until": self.until or None,
            "processes": [
                {
                    "pid": answer.pid,
                    "uid": answer.uid,
                    "error": answer.error,
                    "message": answer.message,
                    "draining": (answer.result or {}).get("draining"),
                    "pools": [
                        {key: pool[key] for key in _SHOWN if key in pool} for pool in _pools(answer)
                    ],
                }
                for answer in self.answers
            ],
            "missing": list(self.missing),
            "holding": list(self.holding),
        }

    def tables(self) -> list[Table]:
        """Return what was done in each process, and the leases that are waited for."""
        drains = self.command in ("drain", "undrain")
        rows = [row for a in self.answers for row in (_state(a) if drains else _sizes(a))]
        notes = [
            Cell(printable(f"{a.pid}  {a.error}".replace("_", " ")))
            for a in self.answers
            if a.error
        ]
        if self.until and self.code == DONE:
            notes.append(Cell(self._end_of_pause()))
        found = [
            Table(
                title=Cell(self.command),
                columns=(("PID", "STATE") if drains else _POOLS) if rows else (),
                rows=rows,
                notes=notes,
            )
        ]
        if self.holding:
            longest = sorted(self.holding, key=lambda lease: -lease["seconds"])
            title = Cell("Leases that it waits for, the oldest first")
            rows = [_lease(lease) for lease in longest]
            found.append(Table(title=title, columns=_LEASES, rows=rows))
        return found

    def problem(self) -> str:
        """Return what kept it from being done, as sentences; empty where it was done."""
        found = []
        for what in ("refused by", "no answer from", "failed in"):
            some = [a for a in self.answers if a.error and _KINDS.get(a.error, "failed in") == what]
            if some:
                pids = ", ".join(str(answer.pid) for answer in some)
                count, many = len(self.answers), "es" * (len(self.answers) > 1)
                why = "; ".join(sorted({answer.message or "" for answer in some}))
                found.append(f"{what} {len(some)} of {count} process{many} ({pids}): {why}.")
        if self.missing:
            what = "lease" if self.command == "kill-lease" else "live process"
            found.append(f"there is no {what} {', '.join(self.missing)}: see poolstatus.")
        if self.unfinished:
            found.append(self._what_is_left())
        return " ".join(found)

    def _what_is_left(self) -> str:
        if not self.holding:
            return "not everywhere yet: see the table."
        count = f"{len(self.holding)} lease{'s' * (len(self.holding) > 1)}"
        if self.command != "pause":
            return f"not yet: {count} left."
        return f"not yet: {count} left, which `kill-lease` would end. {self._end_of_pause()}"

    def _end_of_pause(self) -> str:
        left = duration(max(0.0, self.until - time.time()))
        clock = time.strftime("%H:%M:%S %Z", time.localtime(self.until))
        return f"The pause ends by itself at {clock}, in {left}; `resume` ends it before."


def _pools(answer: Answer) -> Iterable[Mapping[str, Any]]:
    pools: list[Mapping[str, Any]] = (answer.result or {}).get("pools", [])
    return pools


def _state(answer: Answer) -> list[list[Cell]]:
    if answer.result is None:
        return []
    return [[Cell(str(answer.pid)), Cell("draining" if answer.result["draining"] else "ready")]]


def _sizes(answer: Answer) -> list[list[Cell]]:
    words = ("min_size", "max_size", "size", "used", "idle", "waiters")
    return [
        [
            Cell(str(answer.pid)),
            Cell(printable(pool["name"])),
            Cell(pool["state"]),
            *(Cell(str(pool[word])) for word in words),
        ]
        for pool in _pools(answer)
    ]


def _lease(lease: Mapping[str, Any]) -> list[Cell]:
    words = ("status", "statement", "pinned", "thread", "where")
    return [
        Cell(printable(lease["id"])),
        Cell(duration(lease["seconds"])),
        *(Cell(printable(str(lease[word] or "-"))) for word in words),
    ]

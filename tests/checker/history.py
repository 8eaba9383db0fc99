"""What has happened in a run: operations of visitors, faults, and what was there in the end.

One JSON object a line, so that a run which is killed leaves all that it knew. Times are seconds on
the machine's monotonic clock, which all its processes share.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, Literal

Outcome = Literal["ok", "fail", "info"]
"""`ok`: it was answered. `fail`: it has not happened. `info`: nobody knows whether it has."""
Kind = Literal["browser", "tabs", "member", "device", "api", "stranger", "job"]
"""Who asks: with cookies; the same with several requests at once; logged in; logged in, and knows
nothing but its session; by `Authorization` and a header; with nothing; a job that was enqueued."""

KNOWN: frozenset[str] = frozenset({"member", "device", "api"})
"""Who is known by session or `Authorization`, and so reads the same replica each time."""


@dataclass(slots=True)
class Write:
    """One thing that was written."""

    target: str
    """`list …` or `counter …`."""
    element: int
    """What was appended, or what the counter became; 0 where nobody knows what that was."""


@dataclass(slots=True)
class Read:
    """What was found in one place."""

    target: str
    found: Any
    """All elements of a list, or the number of a counter."""
    node: str
    """The server that has answered."""

    def has(self, element: int) -> bool:
        """Return whether something that was written shows here."""
        if self.target.startswith("counter"):
            return bool(self.found >= element)
        return element in self.found


@dataclass(slots=True)
class Op:
    """One request of a visitor, or one job."""

    number: int
    visitor: str
    kind: Kind
    who: str
    """Whose writes it has to see: those of a user on all of its devices."""
    name: str
    invoked: float
    ended: float
    outcome: Outcome
    writes: list[Write] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    wrote_first: bool = True
    """Whether what it read was read after what it wrote."""
    status: int = 0
    error: str = ""
    server: str = ""
    """What served it: `wsgi`, `asgi` or `job`."""
    route: str = ""
    """The debug header."""
    told: list[int] | str | None = None
    """What it was given to bring next time: timeline and position; `pin` for a time; or nothing."""
    brought: bool = False
    """Whether it came with something that it had to see."""
    session: bool = False
    """Whether it needed its session, which is read from the primary."""


@dataclass(slots=True)
class Fault:
    """Something that was done to the servers."""

    name: str
    node: str
    role: Literal["primary", "replica"]
    began: float
    ended: float = 0.0
    """When it was undone; 0.0 where it is in force."""
    note: str = ""


@dataclass(slots=True)
class Promotion:
    """A replica that took over."""

    lossy: bool
    began: float
    """When the first replica was cut off, or the primary was about to end."""
    ended: float
    """When the new primary was in its place."""
    timeline: int
    """The one that is over."""
    switch: int
    """Where in the log it ended."""


@dataclass(slots=True)
class History:
    """All of a run."""

    facts: dict[str, Any] = field(default_factory=dict)
    """Seed, versions and promises: what the settings of the site say, and bounds."""
    ops: list[Op] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    promotions: list[Promotion] = field(default_factory=list)
    final: dict[str, Any] = field(default_factory=dict)
    """What each list and counter was in the end, on the primary."""


_KINDS: dict[str, Any] = {"op": Op, "fault": Fault, "promotion": Promotion}


class Recorder:
    """Writes a history while it happens. Any thread may enter something."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.history = History()
        self._lock = Lock()  # guards the file and the lists
        self._file = path.open("w")

    def facts(self, **facts: Any) -> None:
        """Enter what is true for the whole run."""
        with self._lock:
            self.history.facts |= facts
            self._write("facts", facts)

    def op(self, op: Op) -> None:
        """Enter an operation that has ended, one way or another."""
        with self._lock:
            self.history.ops.append(op)
            self._write("op", asdict(op))

    def fault(self, fault: Fault) -> None:
        """Enter a fault that has been undone."""
        with self._lock:
            self.history.faults.append(fault)
            self._write("fault", asdict(fault))

    def promotion(self, promotion: Promotion) -> None:
        """Enter that a replica has taken over."""
        with self._lock:
            self.history.promotions.append(promotion)
            self._write("promotion", asdict(promotion))

    def final(self, found: dict[str, Any]) -> None:
        """Enter what there was in the end."""
        with self._lock:
            self.history.final = found
            self._write("final", found)

    def close(self) -> None:
        """Close the file. A second call does nothing."""
        with self._lock:
            self._file.close()

    def _write(self, kind: str, value: dict[str, Any]) -> None:
        if not self._file.closed:
            self._file.write(json.dumps({"is": kind, **value}) + "\n")


def load(path: Path) -> History:
    """Read a history. Raises ValueError for a file that is none."""
    history = History()
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            value = json.loads(line)
            kind = value.pop("is")
            if kind == "facts":
                history.facts |= value
            elif kind == "final":
                history.final = value
            else:
                _list_of(history, kind).append(_made(kind, value))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}, line {number}: {type(error).__name__}: {error}") from None
    return history


def _list_of(history: History, kind: str) -> list[Any]:
    lists: dict[str, list[Any]] = {
        "op": history.ops,
        "fault": history.faults,
        "promotion": history.promotions,
    }
    return lists[kind]


def _made(kind: str, value: dict[str, Any]) -> Any:
    if kind == "op":
        value["writes"] = [Write(**each) for each in value["writes"]]
        value["reads"] = [Read(**each) for each in value["reads"]]
    return _KINDS[kind](**value)


def by_visitor(history: History) -> Iterator[tuple[str, list[Op]]]:
    """Yield each visitor with its operations, jobs left out, in the order in which they ended."""
    found: dict[str, list[Op]] = {}
    for op in sorted(history.ops, key=lambda each: each.ended):
        if op.kind != "job":
            found.setdefault(op.visitor, []).append(op)
    yield from found.items()

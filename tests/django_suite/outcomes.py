"""What became of the tests of one run, as the run has written it down."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

Status = Literal["passed", "skipped", "failed"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one test."""

    status: Status
    detail: str = ""
    """The end of the traceback, or why it was skipped."""


@dataclass(slots=True)
class Outcomes:
    """What became of the tests of a run so far."""

    tests: dict[str, Outcome] = field(default_factory=dict)
    """By test id. An error around a class stands under a name of its own, `setUpClass (...)`."""
    total: int | None = None
    """How many tests there are to run; None until the databases are there."""
    under_way: str = ""
    """The test that was begun last."""
    leases: int | None = None
    """How often a connection was acquired of our pools; None on Django's backend."""
    bridged: int = 0
    """How many functions ran in the bridge."""
    finished: bool = False
    """Whether the run came to its end, with the databases removed."""
    seconds: float = 0.0

    def take(self, event: Mapping[str, Any]) -> None:
        """Take up one event of the file."""
        if "status" in event:
            outcome = Outcome(event["status"], event.get("detail", ""))
            # A part that failed is followed by other parts, and a test by its class.
            if (before := self.tests.get(event["test"])) is None or before.status != "failed":
                self.tests[event["test"]] = outcome
        elif "start" in event:
            self.under_way = event["start"]
        elif "total" in event:
            self.total = event["total"]
        elif "leases" in event:
            self.leases = event["leases"]
        elif "bridged" in event:
            self.bridged = event["bridged"]
        elif "finished" in event:
            self.finished = True

    def count(self, status: Status) -> int:
        """Return how many tests ended so."""
        return Counter(outcome.status for outcome in self.tests.values())[status]

    def save(self, path: Path) -> None:
        """Write them to a file, in one move."""
        draft = path.with_suffix(".new")
        draft.write_text(json.dumps(asdict(self)))
        draft.replace(path)

    @classmethod
    def load(cls, path: Path) -> Self | None:
        """Read them from a file; None where there is none that can be read."""
        try:
            saved = json.loads(path.read_text())
            tests = {test: Outcome(**outcome) for test, outcome in saved.pop("tests").items()}
            return cls(tests=tests, **saved)
        except (OSError, ValueError, TypeError, KeyError):
            return None


class Reader:
    """Reads the file of a run that goes on."""

    def __init__(self, path: Path) -> None:
        self.outcomes = Outcomes()
        self._path = path
        self._offset = 0

    def read(self) -> bool:
        """Take up what is new; return whether there was anything."""
        with self._path.open("rb") as file:
            file.seek(self._offset)
            new = file.read()
        whole, newline, _ = new.rpartition(b"\n")
        self._offset += len(whole) + len(newline)
        for line in whole.splitlines():
            self.outcomes.take(json.loads(line))
        return bool(whole)

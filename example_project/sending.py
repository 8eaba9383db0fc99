"""Have a crowd of clients sent by a process of its own, and hear how it fares."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from example_project.clients import Crowd
from example_project.processes import Child, ChildFailed

EVERY = 0.5
Report = Mapping[str, Any]
"""What `Measures.as_json()` gives, with `in_flight`, and whether it is `over`."""


def send(crowd: Crowd, log: Path, heard: Callable[[Report], None] = lambda report: None) -> Report:
    """Send a crowd; return its last report. Blocks until the last client is done.

    `heard` is called with each report that is new, the last one among them.

    Raises:
        ChildFailed: the process of the clients ended before they were done.
    """
    command = [sys.executable, "-m", "example_project.clients", crowd.as_argument()]
    child = Child("the clients", command, log=log, environment={})
    told: Report = {}
    try:
        while True:
            status = child.wait(EVERY)
            report = _latest(log)
            if report != told:
                heard(report)
                told = report
            if told.get("over"):
                return told
            if status is not None:
                raise ChildFailed(f"the clients ended with status {status}\n{child.tail()}")
    finally:
        child.stop()


def _latest(log: Path) -> Report:
    """Return the last report that is there as a whole; nothing if there is none."""
    lines = log.read_text(errors="replace").split("\n")[:-1]
    reports = [line for line in lines if line.startswith("{")]
    found: Report = json.loads(reports[-1]) if reports else {}
    return found

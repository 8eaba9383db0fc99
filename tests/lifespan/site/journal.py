"""What happened in which process, in order: a line each in a file that all of them write to."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import NamedTuple


class Entry(NamedTuple):
    """One line."""

    pid: int
    at: float
    """On the monotonic clock, which all processes share."""
    event: str
    """As `open a`, `close a`, `request /slow/`."""


def note(event: str) -> None:
    """Write down what happened here and now."""
    line = json.dumps([os.getpid(), time.monotonic(), event]) + "\n"
    # One write to a file opened for appending is not mixed with those of other processes.
    file = os.open(os.environ["SITE_JOURNAL"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)


def read(path: Path) -> list[Entry]:
    """Return what has been written so far."""
    text = path.read_text() if path.exists() else ""
    return [Entry(*json.loads(line)) for line in text.splitlines()]

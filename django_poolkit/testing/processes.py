"""Which processes run on this machine: command lines and states, without a library."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_PROC = Path("/proc")
# Only Linux has a /proc with these files; elsewhere `ps` answers.
_HAS_PROC = (_PROC / "self" / "cmdline").exists()


def command_lines() -> dict[int, list[str]]:
    """Return the arguments of every visible process by its id.

    A process that rewrote its title (a PostgreSQL backend) has one argument.
    """
    if not _HAS_PROC:
        return _ask_ps()
    found: dict[int, list[str]] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            # A process may end between the listing and the reading.
            with suppress(OSError):
                text = (entry / "cmdline").read_bytes().decode(errors="replace")
                found[int(entry.name)] = text.rstrip("\0").split("\0")
    return found


def _ask_ps() -> dict[int, list[str]]:
    answer = subprocess.run(
        ["ps", "-axww", "-o", "pid=,command="], capture_output=True, text=True, check=True
    )
    rows = (line.split(maxsplit=1) for line in answer.stdout.splitlines())
    return {int(row[0]): row[1].split(" ") for row in rows if len(row) == 2}


def state(pid: int) -> str:
    """Return the one-letter state of a process (`T` stopped, `Z` zombie), "" if it is gone."""
    if _HAS_PROC:
        try:
            # The command in parentheses may itself contain spaces and parentheses.
            return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return ""
    answer = subprocess.run(
        ["ps", "-o", "state=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return answer.stdout.strip()[:1]


def is_alive(pid: int) -> bool:
    """Tell whether a process still runs; a zombie does not."""
    return state(pid) not in ("", "Z", "X")


def send(pids: Iterable[int], number: signal.Signals) -> None:
    """Signal each process; one that is gone already is no error."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)

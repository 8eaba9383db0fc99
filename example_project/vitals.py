"""What the system says of a running process: its threads, its memory, its CPU time."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self


@dataclass(frozen=True)
class Vitals:
    """One look at a process."""

    threads: int
    files: int
    """That it has open, sockets among them."""
    memory: int
    """Bytes that it occupies."""
    cpu: float
    """Seconds that its threads have computed, in all."""


def vitals(pid: int) -> Vitals:
    """Look at a process.

    Raises:
        OSError: there is none of that number, or this system has no `/proc`.
    """
    folder = Path("/proc") / str(pid)
    lines = (line.partition(":") for line in (folder / "status").read_text().splitlines())
    facts = {name: value.strip() for name, _, value in lines}
    # proc(5): the name in brackets may hold anything; utime and stime are the 12th and 13th after.
    fields = (folder / "stat").read_text().rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    return Vitals(
        threads=int(facts["Threads"]),
        files=sum(1 for _ in (folder / "fd").iterdir()),
        memory=int(facts["VmRSS"].split()[0]) * 1024,
        cpu=ticks / os.sysconf("SC_CLK_TCK"),
    )


class Watch:
    """Looks at a process a few times a second, from a thread of its own, for a block's length."""

    def __init__(self, pid: int, every: float = 0.2) -> None:
        self._pid = pid
        self._every = every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch")
        self.before = self.last = vitals(pid)
        """The first look, and the latest one."""
        self.threads = self.last.threads
        """The most that there were at once."""
        self.files = self.last.files
        """The most that it had open."""
        self.memory = self.last.memory
        """The most that it occupied."""

    @property
    def cpu(self) -> float:
        """Return the seconds that it has computed since the first look."""
        return self.last.cpu - self.before.cpu

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            # Asked before the look: so the last one is of the block's end.
            ending = self._stop.is_set()
            try:
                self.last = vitals(self._pid)
            except (OSError, KeyError):
                # It has ended: a dying process has no memory to tell of.
                return
            self.threads = max(self.threads, self.last.threads)
            self.files = max(self.files, self.last.files)
            self.memory = max(self.memory, self.last.memory)
            if ending:
                return
            self._stop.wait(self._every)

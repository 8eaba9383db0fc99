"""One thread that waits for what is to be done later, for all pools of the process.

It does none of it: each job goes to a worker of its pool. It ends when nothing is left to wait
for, and is started again when something is.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
from contextlib import suppress
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any, Final

from psycopg_pool.pool import MaintenanceTask

from django_poolkit.pools.forks import in_child

logger = logging.getLogger("django_poolkit.pool")

NAME: Final = "poolkit-clock"
"""The name of the thread."""


class Clock:
    """Jobs by the time at which they are due."""

    def __init__(self) -> None:
        # Guards the three below. Reentrant, since a finalizer may drop a pool at any bytecode;
        # that only leaves word, and changes nothing. Nothing else is locked inside of it.
        self._lock = threading.RLock()
        self._due: list[tuple[float, int, MaintenanceTask]] = []
        self._count = itertools.count()
        self._thread: threading.Thread | None = None
        # Wakes the thread. Can be entered twice by one thread, which an Event cannot.
        self._wake: SimpleQueue[None] = SimpleQueue()

    def enter(self, delay: float, job: MaintenanceTask) -> None:
        """Have a job given to its pool in `delay` seconds, if that is still open. Never blocks."""
        with self._lock:
            heapq.heappush(self._due, (monotonic() + delay, next(self._count), job))
            if self._thread is None:
                thread = threading.Thread(target=self._run, name=NAME, daemon=True)
                try:
                    thread.start()
                except RuntimeError as error:  # the system gives none: whoever comes next tries
                    logger.warning("event=no_thread error=%s", error)
                else:
                    self._thread = thread
        self._wake.put(None)

    def look(self) -> None:
        """Have jobs of pools that are closed or gone forgotten now. For finalizers, too."""
        self._wake.put(None)

    def _run(self) -> None:
        while (found := self._take()) is not None:
            jobs, seconds = found
            for job in jobs:
                try:
                    job.tick()
                except Exception as error:
                    logger.warning("event=no_thread error=%s", error)
            del found, jobs
            with suppress(Empty):
                self._wake.get(timeout=min(seconds, threading.TIMEOUT_MAX))

    def _take(self) -> tuple[list[MaintenanceTask], float] | None:
        """Return what is due, and the seconds until more is; None to end."""
        with self._lock:
            now = monotonic()
            jobs = [job for at, _, job in sorted(self._due) if at <= now]
            self._due = [entry for entry in self._due if entry[0] > now and _open(entry[2])]
            heapq.heapify(self._due)
            if not jobs and not self._due:
                self._thread = None
                return None
            return jobs, self._due[0][0] - now if self._due else 0.0

    def after_fork(self) -> None:
        """Start anew in a child: it has not got the thread, and its pools begin anew as well."""
        self.__init__()  # type: ignore[misc]


def _open(job: MaintenanceTask) -> bool:
    pool: Any = job.pool()
    return pool is not None and not pool.ended  # one that is about to open is still closed


clock = Clock()
in_child(clock.after_fork)

"""The thread of one check: started when there is something to do, ended when there is not.

Checks never run where others wait for a thread: the default executor of an event loop resolves
its names, too, and a handful of checks that hang would stop that.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Final

IDLE: Final = 60.0
"""Seconds without work, after which the thread ends and what its check has kept is closed."""


class Worker:
    """Does one job after the other, in a thread of its own."""

    def __init__(self, name: str, farewell: Callable[[], None], *, idle: float = IDLE) -> None:
        self._name = name
        self._farewell = farewell
        self._idle = idle
        self._lock = threading.Lock()  # guards the thread, and what is put into the queue
        self._thread: threading.Thread | None = None
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()

    @property
    def alive(self) -> bool:
        """Whether it has a thread."""
        thread = self._thread
        return thread is not None and thread.is_alive()

    def run(self, job: Callable[[], None]) -> None:
        """Have a job done that raises nothing. Raises RuntimeError where there is no thread."""
        with self._lock:
            if not self.alive:
                self._jobs = SimpleQueue()  # that of a thread that died is nobody's
                thread = threading.Thread(
                    target=self._serve,
                    args=(self._jobs,),
                    name=f"poolkit-health-{self._name}",
                    # One that hangs must not hold up the end of the process.
                    daemon=True,
                )
                thread.start()
                self._thread = thread
            self._jobs.put(job)

    def stop(self, timeout: float) -> None:
        """End the thread after the job that it is at. Blocks for `timeout` seconds at most."""
        with self._lock:
            thread = self._thread
            self._jobs.put(None)
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    def _serve(self, jobs: SimpleQueue[Callable[[], None] | None]) -> None:
        while True:
            try:
                job = jobs.get(timeout=self._idle)
            except Empty:
                job = None
            if job is not None:
                job()
                continue
            self._farewell()
            with self._lock:
                if jobs.empty():  # else somebody has come meanwhile
                    self._thread = None
                    return

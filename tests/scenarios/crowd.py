"""Many threads at once, and what became of each."""

from __future__ import annotations

import faulthandler
import os
import random
import sys
import threading
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from time import monotonic
from typing import Any

from psycopg import Connection

from django_poolkit.testing import Node

_PATIENCE = 60.0


def jain(counts: list[int]) -> float:
    """Return Jain's index of fairness: 1.0 where all have the same, 1/n where one has all."""
    return sum(counts) ** 2 / (len(counts) * sum(count * count for count in counts))


class Crowd:
    """Threads that each repeat a step until the time is up.

    A step's exception of an expected kind is counted and the thread goes on; any other ends the
    crowd, and `wait()` raises it.
    """

    def __init__(self, seconds: float) -> None:
        self.deadline = monotonic() + seconds
        self.steps: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.unexpected: list[BaseException] = []
        self._threads: list[threading.Thread] = []
        self._stop = threading.Event()

    @property
    def goes_on(self) -> bool:
        return not self._stop.is_set() and monotonic() < self.deadline

    def pause(self, seconds: float) -> None:
        """Wait, but not beyond the end."""
        self._stop.wait(seconds)

    def add(
        self,
        name: str,
        step: Callable[[random.Random], object],
        expected: Callable[[BaseException], bool] = lambda error: False,
    ) -> None:
        def work() -> None:
            dice = random.Random(name)
            while self.goes_on:
                try:
                    step(dice)
                except BaseException as error:
                    if not expected(error):
                        self.unexpected.append(error)
                        self._stop.set()
                        return
                    self.errors[type(error).__name__] += 1
                self.steps[name] += 1

        self._threads.append(threading.Thread(target=work, name=name))

    def run(self) -> None:
        """Start all, wait for all, and raise what nobody expected."""
        for thread in self._threads:
            thread.start()
        for thread in self._threads:
            thread.join(max(0.0, self.deadline - monotonic()) + _PATIENCE)
        hanging = [thread.name for thread in self._threads if thread.is_alive()]
        self._threads.clear()
        if self.unexpected:
            raise self.unexpected[0]
        assert not hanging, hanging


class Killer:
    """Terminates backends of one application name at random, on a connection of its own."""

    def __init__(self, node: Node, application_name: str) -> None:
        self._admin: Connection[Any] = node.connect(application_name="killer")
        self._name = application_name
        self.kills = 0

    def strike(self, crowd: Crowd, dice: random.Random) -> None:
        """Wait a little, then terminate one backend."""
        crowd.pause(dice.uniform(0.02, 0.2))
        pids = self.pids()
        if pids:
            self._admin.execute("SELECT pg_terminate_backend(%s)", (dice.choice(pids),))
            self.kills += 1

    def pids(self) -> list[int]:
        """Return the server's processes for this name."""
        rows = self._admin.execute(
            "SELECT pid FROM pg_stat_activity WHERE application_name = %s ORDER BY pid",
            (self._name,),
        )
        return [pid for (pid,) in rows]

    def close(self) -> None:
        self._admin.close()


def in_a_fork(work: Callable[[], object], seconds: float = 15.0) -> Callable[[], int]:
    """Run `work` in a forked child; return a function that waits for its exit status.

    0 means that it returned, 1 that it raised, or was ended after `seconds`.
    """
    with warnings.catch_warnings():
        # Python warns of forks beside threads: whoever preloads does it all the same.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        faulthandler.dump_traceback_later(seconds, exit=True, file=2)
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(status)

    def wait() -> int:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    return wait

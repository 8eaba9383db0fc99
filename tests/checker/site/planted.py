"""Defects that the checker has to find, put into the package in the site's processes alone.

Each is what somebody may well get wrong some day. `CHECKER["planted"]` names one.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from django_poolkit.backends import request as requests
from django_poolkit.backends.postgresql import rerouting
from django_poolkit.backends.postgresql.base import DatabaseWrapper
from django_poolkit.pools.postgres.wal import Position
from django_poolkit.routing import admission, carriers, jobs, monitor, positions, writes
from django_poolkit.routing.carriers import Carriage
from tests.checker.site.settings import FACTS


def token_dropped() -> None:
    """Give visitors nothing to bring next time."""
    carriers.Carriage._give = lambda *ignored: None  # type: ignore[method-assign]
    carriers.Carriage._write_entry = lambda *ignored: None  # type: ignore[method-assign]


def never_evicted() -> None:
    """Look at replicas, and read them however late they are."""
    admission.publish = lambda circuits: None


def by_number() -> None:
    """Compare positions of two timelines by their numbers."""
    Position.reached_by = lambda self, other: self.lsn <= other.lsn  # type: ignore[method-assign]
    judge = positions.Servers.judge

    def compared(self: Any, cluster: str, wanted: Any, reading: Any, primary: Any) -> Any:
        if reading.in_recovery and wanted.reached_by(reading.position):
            return "reached"
        return judge(self, cluster, wanted, reading, primary)

    positions.Servers.judge = compared  # type: ignore[method-assign]


def floor_too_low() -> None:
    """Name the position before a commit, and not the one after it."""
    place = writes.place

    def placed(here: Any, cluster: Any, position: Position) -> None:
        place(here, cluster, replace(position, lsn=position.lsn - 400))

    writes.place = placed


def cache_of_writes_alone() -> None:
    """Enter in the cache what a visitor has written, and not what it has seen."""
    enter = Carriage._write_entry

    def entered(self: Carriage, floors: Any) -> None:
        self.scope.strays.clear()
        self.scope.behind.clear()
        enter(self, floors)

    Carriage._write_entry = entered  # type: ignore[method-assign]


def host_forgotten() -> None:
    """Have a visitor who is known read any replica each time."""
    unpack = Carriage._unpack

    def unpacked(self: Carriage) -> None:
        unpack(self)
        if self.scope.visitor is not None:
            self.scope.visitor = random.randbytes(16)

    Carriage._unpack = unpacked  # type: ignore[method-assign]


def job_token_dropped() -> None:
    """Have jobs begin with nothing that they must see."""
    begin = jobs.JobBlock.__init__
    jobs.JobBlock.__init__ = lambda self, token: begin(self, None)  # type: ignore[method-assign]


def write_lost() -> None:
    """Roll back one of five commits, and say that it was made."""
    commit, turn = DatabaseWrapper._commit, itertools.count(1)

    def committed(self: Any) -> Any:
        request = requests.current()
        if request is None or "work" not in request.path:
            return commit(self)  # who is logged in stays so
        return self._rollback() if next(turn) % 5 == 0 else commit(self)

    DatabaseWrapper._commit = committed  # type: ignore[method-assign]


def read_not_repeated() -> None:
    """Raise what a replica's end does to a read."""
    rerouting.failure_of = lambda *ignored: None  # type: ignore[attr-defined]


DEFECTS: dict[str, Callable[[], None]] = {
    each.__name__: each
    for each in (
        token_dropped,
        never_evicted,
        by_number,
        floor_too_low,
        cache_of_writes_alone,
        host_forgotten,
        job_token_dropped,
        write_lost,
        read_not_repeated,
    )
}


def plant() -> None:
    """Plant the defect that is asked for, if one is; and look as often as is asked for."""
    if looks := FACTS["looks"]:
        monitor.CALM = monitor.ALERT = tuple(looks)  # type: ignore[misc]
    if name := FACTS.get("planted"):
        DEFECTS[name]()

"""How far servers have come: what is known, and one thread a server that asks for all who wait.

What a replica has replayed only grows, so what it said once holds for as long as it runs; that it
does is told by the connection on which it said so. Where that is not enough, a thread asks again
and again until all have what they wait for, and ends when nobody has waited for a while.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic
from typing import Final, Literal
from weakref import WeakKeyDictionary

from django_poolkit.pools.forks import in_child
from django_poolkit.pools.postgres import ConnectionPool
from django_poolkit.pools.postgres.positions import PositionReader, Reading
from django_poolkit.pools.postgres.prober import ProbeFailed
from django_poolkit.routing.floors import Position

Verdict = Literal["reached", "behind", "never", "unsure"]
"""What a server is for who has to see a position. `never`: waiting for it leads to nothing.
`unsure`: it has come that far if the primary is still the one that it was."""

# Seconds that one question may take, with a connect where there has to be one.
_PATIENCE: Final = 1.0
# Seconds between two questions, while somebody waits: the first, and the longest.
_PAUSE: Final = 0.0002
_LONGEST_PAUSE: Final = 0.005
# Seconds for which a server is not asked that did not answer.
_REFUSED: Final = 0.5
# Seconds after which a thread ends, and its connection, when nobody has waited.
_IDLE: Final = 30.0


def once(reading: Reading) -> Verdict:
    """Have a server asked once, whatever it says."""
    return "never"


class Waiter:
    """Who waits for a server to have come somewhere, or to say where it is."""

    __slots__ = ("deadline", "failed", "judge", "notify", "reading")

    def __init__(
        self, deadline: float, notify: Callable[[], None], judge: Callable[[Reading], Verdict]
    ) -> None:
        self.deadline = deadline
        """Until when, on the monotonic clock."""
        self.notify = notify
        """Called in the asking thread with each answer. Must not wait."""
        self.judge = judge
        """Says of an answer whether to wait for another one: where it is `behind`."""
        self.reading: Reading | None = None
        """The last answer that began after it had come."""
        self.failed = False
        """Whether the server did not answer."""


class Server:
    """One server, as this process knows it."""

    def __init__(self, reader: PositionReader) -> None:
        self._reader = reader
        # Guards what follows, and wakes the thread.
        self._changed = threading.Condition()
        self._waiters: dict[Waiter, None] = {}  # in order; who leaves need not look for himself
        self._asking = False
        self._refused_until = 0.0
        self._reading: Reading | None = None

    def known(self) -> Reading | None:
        """Return what it has said last, if it is sure to have at least that. Sends nothing."""
        reading = self._reading
        return reading if reading is not None and self._reader.still(reading) else None

    def ask(self, waiter: Waiter) -> None:
        """Have it asked for somebody, who is notified. Does not block."""
        with self._changed:
            if monotonic() < self._refused_until:
                waiter.failed = True
                return
            self._waiters[waiter] = None
            if self._asking:
                self._changed.notify()
                return
            self._asking = True
        try:
            threading.Thread(target=self._run, name="poolkit-positions", daemon=True).start()
        except RuntimeError:  # the system has no thread left, or the interpreter ends
            with self._changed:
                self._asking = False
            self._fail([waiter])

    def leave(self, waiter: Waiter) -> None:
        """Have it asked for somebody no more."""
        with self._changed:
            self._waiters.pop(waiter, None)

    def _run(self) -> None:
        pause = _PAUSE
        seen: set[int] = set()
        while waiters := self._waiting():
            ids = {id(waiter) for waiter in waiters}
            if not ids <= seen:
                pause = _PAUSE  # somebody new
            seen = ids
            try:
                reading = self._reader.read(_PATIENCE)
            except ProbeFailed:
                self._refuse(waiters)
                continue
            except BaseException:
                self._refuse(waiters)
                with self._changed:
                    self._asking = False
                raise
            if self._answer(waiters, reading):
                with self._changed:
                    self._changed.wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)

    def _waiting(self) -> list[Waiter]:
        """Return those for whom to ask now; wait for some. None: the thread ends."""
        with self._changed:
            idle_at = monotonic() + _IDLE
            while True:
                now = monotonic()
                self._waiters = {each: None for each in self._waiters if each.deadline > now}
                if self._waiters:
                    return list(self._waiters)
                if now >= idle_at:
                    self._asking = False
                    break
                self._changed.wait(idle_at - now)
        self._reader.release()
        return []

    def _answer(self, waiters: list[Waiter], reading: Reading) -> bool:
        """Tell those who have waited since before; return whether any goes on waiting."""
        self._reading = reading
        done = []
        for waiter in waiters:
            waiter.reading = reading
            if waiter.judge(reading) != "behind":
                done.append(waiter)
        with self._changed:
            for waiter in done:
                self._waiters.pop(waiter, None)
            left = bool(self._waiters)
        for waiter in waiters:
            waiter.notify()
        return left

    def _refuse(self, waiters: list[Waiter]) -> None:
        self._reading = None
        with self._changed:
            self._refused_until = monotonic() + _REFUSED
            waiters = list({**dict.fromkeys(waiters), **self._waiters})
        self._fail(waiters)

    def _fail(self, waiters: list[Waiter]) -> None:
        with self._changed:
            for waiter in waiters:
                self._waiters.pop(waiter, None)
        for waiter in waiters:
            waiter.failed = True
            waiter.notify()


class Servers:
    """The servers of this process, by their pools."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # guards the table; reentrant, for finalizers
        self._by_pool: WeakKeyDictionary[ConnectionPool, Server] = WeakKeyDictionary()
        self._timelines: dict[tuple[str, int], int] = {}

    def of(self, pool: ConnectionPool) -> Server:
        """Return the server that a pool leads to."""
        with self._lock:
            found = self._by_pool.get(pool)
            if found is None:
                found = self._by_pool[pool] = Server(pool.positions)
            return found

    def note(self, cluster: str, position: Position) -> None:
        """Take note of a timeline that the servers of a cluster are on."""
        key = cluster, position.system
        if position.timeline > self._timelines.get(key, 0):
            self._timelines[key] = position.timeline

    def judge(
        self, cluster: str, wanted: Position, reading: Reading, primary: Reading | None
    ) -> Verdict:
        """Return what a replica of a cluster is for who has to see a position. Sends nothing.

        `primary` is what that has said, if it is sure to be still so.
        """
        found = reading.position
        if not reading.in_recovery:
            return "never"
        self.note(cluster, found)
        if (found.system, found.timeline) != (wanted.system, wanted.timeline):
            return "never"
        # One that follows a server which has been replaced: its numbers are no more the primary's.
        if found.timeline < self._timelines.get((cluster, found.system), 0):
            return "never"
        if not wanted.reached_by(found):
            return "behind"
        if reading.sure:
            return "reached"
        # It follows somebody, and does not say on which timeline: on the primary's, so no later
        # one, for as long as that has not been replaced.
        if primary is None or primary.in_recovery:
            return "unsure"
        self.note(cluster, primary.position)
        now = primary.position
        return (
            "reached" if (now.system, now.timeline) == (found.system, found.timeline) else "never"
        )

    def after_fork(self) -> None:
        """Begin anew in a forked child: the threads are the parent's."""
        self.__init__()  # type: ignore[misc]


servers: Final = Servers()
"""The one table there is."""

in_child(servers.after_fork)

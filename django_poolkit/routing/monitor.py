"""Looks how the servers of all clusters are, time and again, and says which may be read.

One thread a process, which begins with the first read that may go to a replica. It asks each
server beside its pool, holds no lock meanwhile, and never keeps a query waiting.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping
from time import monotonic
from typing import Any, Final

from django.core.signals import setting_changed

from django_poolkit.pools.chance import chance
from django_poolkit.pools.endings import at_end
from django_poolkit.pools.forks import in_child
from django_poolkit.pools.postgres import ConnectionPool
from django_poolkit.pools.postgres.fence import untold
from django_poolkit.pools.postgres.prober import ProbeFailed
from django_poolkit.pools.postgres.standing import Standing
from django_poolkit.routing import admission, leading, loads, seen
from django_poolkit.routing.asking import Answer, Asker
from django_poolkit.routing.breaker import Change, Circuit, Reason
from django_poolkit.routing.hosts import Hosts
from django_poolkit.routing.lag import UNKNOWN, WELL, Course, Lag, Refusal, Verdict, is_lost
from django_poolkit.routing.news import News, PrimaryNews, ReplicaNews
from django_poolkit.routing.seen import Seen
from django_poolkit.routing.topology import Cluster, clusters

logger = logging.getLogger("django_poolkit.routing")

BUDGET: Final = 1.0
"""Seconds that the primaries have to answer, all of them at once, and then the replicas."""
CALM: Final = (2.5, 5.0)
"""Seconds between two looks, at random from here to there, so that many processes do not ask at
the same time."""
ALERT: Final = (1.0, 1.5)
"""The same while a host is evicted or on trial."""
LEAST: Final = 0.25
"""Seconds between two looks in any case."""
# Seconds for the thread at the end of the process.
_FAREWELL: Final = 1.0


class Monitor:
    """The looks of one process at all of its clusters."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self.started = False
        """Whether it has a thread. Read by every query."""
        self.looked = threading.Event()
        """Set once all servers have been looked at, or have not answered in time."""
        self._turn = threading.Lock()  # held for the length of a round, by who makes it
        self._lock = threading.Lock()  # guards the start of the thread, and the four below
        self._circuits: dict[str, Circuit] = {}
        self._courses: dict[str, Course] = {}
        self._lags: dict[str, Lag | None] = {}  # by full name, at the last look
        self._epoch = 0  # another one when the settings have changed
        self._asker = Asker()
        self._hosts = Hosts()
        self._thread: threading.Thread | None = None
        self._no_thread_until = 0.0
        self._stop = threading.Event()
        self._wake = threading.Event()

    def start(self) -> None:
        """Begin to look, unless this process does so already. Does not block."""
        with self._lock:
            if self.started or monotonic() < self._no_thread_until:
                return
            self.started = True
            self._stop = threading.Event()
            thread = threading.Thread(
                target=self._run, args=(self._stop,), name="poolkit-routing", daemon=True
            )
        try:
            thread.start()
        except RuntimeError as error:  # the system gives no thread, or the process ends
            self._no_thread_until = monotonic() + CALM[1]  # each read would try, and say so
            self.started = False
            logger.warning("event=no_thread error=%s", error)
            return
        self._thread = thread

    def nudge(self) -> None:
        """Have the thread look soon, if there is one: somebody has met something. Never blocks."""
        self._wake.set()

    def evict(self, cluster: Cluster, name: str, pool: ConnectionPool, reason: Reason) -> None:
        """Have a host read no more until it has been looked at, and look soon. Never waits."""
        with self._lock:
            circuit = self._circuits.setdefault(name, Circuit())
            change = None if circuit.state == "evicted" else circuit.bad(reason)
            admission.publish(self._circuits)
        if change is not None:
            ReplicaNews(cluster, pool, change, None).tell()
        self.nudge()

    def lost(self, cluster: Cluster, reason: Refusal, waited: float = 0.0) -> None:
        """Take a cluster's primary for lost until it has been looked at, and look soon.

        Somebody has `waited` for it for so many seconds. Never waits for a server.
        """
        with self._lock:
            course = self._courses.setdefault(cluster.name, Course())
            if news := course.refused is None:
                course.lost(reason, monotonic() - waited)
        if news:
            leading.lead(cluster, course)
            PrimaryNews(cluster, None, reason).tell()
        self.nudge()

    def refusal(self, cluster: Cluster) -> Refusal | None:
        """Return why the primary of a cluster is not taken for one at present. Never blocks."""
        course = self._courses.get(cluster.name)
        return None if course is None else course.refused

    def is_lost(self, cluster: Cluster) -> bool:
        """Return whether the primary of a cluster is known to be lost at present. Never blocks."""
        return is_lost(self.refusal(cluster))

    def close(self, timeout: float) -> None:
        """End the thread. Blocks for `timeout` seconds at most, for a look that is under way."""
        self._stop.set()
        self._wake.set()
        thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)
        self.started = False

    def forget(self) -> None:
        """Take every host for well until it has been looked at again. Does not block."""
        with self._lock:
            self._epoch += 1
            self._circuits, self._courses, self._lags = {}, {}, {}
            self._hosts = Hosts()
            admission.publish({})
            loads.forget()
        leading.forget()

    def after_fork(self) -> None:
        """Begin anew in a forked child: the thread is the parent's, and who held the locks."""
        self._begin()
        admission.publish({})
        loads.forget()

    def look(self) -> None:
        """Look at all servers once. Blocks for 2.4 seconds at most, if some do not answer."""
        with self._turn:
            epoch, hosts = self._epoch, self._hosts
            watched = [each for each in clusters().values() if each.watch and each.replicas]
            primaries = hosts.pools(each.primary for each in watched if each.position == "lsn")
            # First, for then what is said of it can only make a replica look better.
            said = self._asker.ask(primaries, BUDGET)
            replicas = {each.name: hosts.pools(each.replicas) for each in watched}
            pools = {name: pool for found in replicas.values() for name, pool in found.items()}
            timed = {
                name for each in watched if each.position == "time" for name in replicas[each.name]
            }
            self._asker.took.clear()
            said |= self._asker.ask(pools, BUDGET, timed)
            with self._lock:
                if epoch != self._epoch:
                    return
                news = [
                    piece
                    for cluster in watched
                    for piece in self._enter_locked(cluster, replicas[cluster.name], said)
                ]
                admission.publish(self._circuits)
                loads.note(self._asker.took)
            # Outside of the lock: pools have locks of their own, and close connections.
            for cluster in watched:
                if cluster.position == "lsn" and (course := self._courses.get(cluster.name)):
                    leading.lead(cluster, course)
        for piece in news:
            piece.tell()
        self.looked.set()

    def seen(self) -> list[Seen]:
        """Return what is known of the servers of all clusters by the last look. Asks nobody."""
        with self._lock:
            return [
                found
                for cluster in clusters().values()
                if (course := self._courses.get(cluster.name)) is not None
                for found in (
                    *seen.primary(cluster, course),
                    *seen.replicas(cluster, self._circuits, self._lags),
                )
            ]

    def _run(self, stop: threading.Event) -> None:
        failed = ""
        while True:
            try:
                self.look()
                failed = ""
            except Exception as error:  # as settings that are wrong by now
                if failed != (failed := type(error).__name__):
                    logger.error("event=look_failed error=%s", failed)
            self._wake.wait(chance.uniform(*(ALERT if self._alert else CALM)) - LEAST)
            if stop.wait(LEAST):
                return
            self._wake.clear()

    @property
    def _alert(self) -> bool:
        circuits, courses = list(self._circuits.values()), list(self._courses.values())
        if any(each.doubtful or each.refused not in (None, "untold") for each in courses):
            return True
        return any(each.doubtful or each.state != "admitted" for each in circuits)

    def _enter_locked(
        self, cluster: Cluster, pools: Mapping[str, ConnectionPool], said: Mapping[str, Answer]
    ) -> Iterator[News]:
        """Enter what the servers of a cluster have said; yield what is new."""
        course = self._courses.setdefault(cluster.name, Course())
        before, primary = course.refused, said.get(cluster.primary)
        others = [answer for name in pools if isinstance(answer := said[name], Standing)]
        if isinstance(primary, Standing):
            course.of_primary(primary, others)
        elif isinstance(primary, ProbeFailed) and (verdict := _failure(primary)) is not UNKNOWN:
            if verdict.kind == "doubt":
                course.doubt()
            else:
                course.lost("untold" if verdict is WELL else "refuses")
        if course.refused != before:
            yield PrimaryNews(cluster, before, course.refused)
        for name, pool in pools.items():
            answer, lag = said[name], None
            if isinstance(answer, Standing):
                course.seen(answer)  # also where the primary has said nothing
                verdict = course.verdict(answer, cluster)
                if (lag := course.lag(answer)) is not None:
                    pool.note_lag(lag.seconds, lag.size)
            else:
                verdict = _failure(answer) if isinstance(answer, ProbeFailed) else WELL
            self._lags[name] = lag
            circuit = self._circuits.setdefault(name, Circuit())
            if (change := _enter(circuit, verdict)) is not None:
                yield ReplicaNews(cluster, pool, change, lag)


def _failure(answer: ProbeFailed) -> Verdict:
    """Return what an answer comes to that says nothing of where the server stands."""
    if untold(answer.sqlstate):
        return WELL  # it answers
    if answer.cause in ("closed", "saturated"):
        return UNKNOWN  # its pool is gone, or those who have a connection may well be served
    return Verdict("doubt" if answer.cause == "timeout" else "bad", "refuses")


def _enter(circuit: Circuit, verdict: Verdict) -> Change | None:
    if verdict.kind == "well":
        return circuit.good()
    if verdict.reason is None:
        return None
    return circuit.doubt(verdict.reason) if verdict.kind == "doubt" else circuit.bad(verdict.reason)


monitor: Final = Monitor()
"""That of this process."""


def _settings_changed(*, setting: str, **kwargs: Any) -> None:
    if setting in ("POOLKIT", "DATABASES"):  # in a test
        monitor.forget()


def _end() -> None:
    monitor.close(_FAREWELL)
    monitor.started = True  # what reads from here on begins nothing


setting_changed.connect(_settings_changed)
in_child(monitor.after_fork)
at_end(_end)

"""psycopg_pool's pool as a shell: its threads, its scheduler, its statistics' names.

Threads are started when there is work for them, and end when there is none: a command that asks
one question needs one worker, not three, and a pool that is idle none. One thread waits, for all
pools of the process, for what is to be done later.
"""

from __future__ import annotations

import _thread
import functools
import logging
import os
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, Concatenate, Final, ParamSpec, TypeVar, cast
from weakref import ref

import psycopg_pool
from psycopg_pool._acompat import spawn
from psycopg_pool.pool import MaintenanceTask, StopWorker

from django_poolkit.pools.lease import Lease
from django_poolkit.pools.ledger import Ledger
from django_poolkit.pools.postgres.clock import clock
from django_poolkit.pools.postgres.connection import PoolConnection
from django_poolkit.pools.postgres.errors import PoolClosed

# Seconds after which a worker without a job ends.
WORKER_IDLE: Final = 10.0

_S = TypeVar("_S", bound="Shell")
_P = ParamSpec("_P")
_R = TypeVar("_R")


def critical(
    method: Callable[Concatenate[_S, _P], _R],
) -> Callable[Concatenate[_S, _P], _R]:
    """Run a method under the pool's lock, with the thread that is inside named.

    What it returns is what is to be done when the lock has been left. Takes no keywords, which
    would cost each acquire two more dicts.
    """

    @functools.wraps(method)
    def inside(self: Any, *args: Any) -> _R:
        with self._lock:
            before, self._inside = self._inside, _thread.get_ident()
            try:
                if (self._resting or self._at_hand) and not before:
                    self._collect_locked()
                return method(self, *args)  # type: ignore[call-arg]
            finally:
                self._inside = before

    return cast("Callable[Concatenate[_S, _P], _R]", inside)


logger = logging.getLogger("django_poolkit.pool")


class Job(MaintenanceTask):
    """A call to be made in a worker, if the pool is still open by then."""

    def __init__(self, pool: Shell, method: str, *args: Any) -> None:
        super().__init__(pool)
        # By name: a bound method would keep the pool alive in its own queue.
        self._method, self._args = method, args

    def run(self) -> None:
        pool = self.pool()
        try:
            super().run()
        except Exception:
            raise  # the worker logs it, and goes on
        except BaseException as error:
            # SystemExit of a user's callable would end the worker, and nobody would notice.
            logger.warning("event=job_failed error=%s", type(error).__name__)
        finally:
            if isinstance(pool, Shell):
                pool.job_done()

    def _run(self, pool: Any) -> None:
        getattr(pool, self._method)(*self._args)


def _work(pool_of: ref[Shell], tasks: SimpleQueue[MaintenanceTask]) -> None:
    """Do jobs until told to stop, or until there has been none for a while."""
    while True:
        try:
            task = tasks.get(timeout=WORKER_IDLE)
        except Empty:
            pool = pool_of()
            if pool is not None and pool.retire_worker():
                return
            del pool  # it may be the last to know it
            continue
        if isinstance(task, StopWorker):
            return
        try:
            task.run()
        except Exception as error:
            logger.warning("event=job_failed error=%s", type(error).__name__, exc_info=True)
        del task


class Shell(psycopg_pool.ConnectionPool[PoolConnection]):
    """What is kept of psycopg_pool, fitted to a ledger of our own."""

    _ledger: Ledger
    _inside: int
    """The thread inside the lock, 0 where there is none."""
    _resting: dict[int, Lease]
    """Leases between two turns, by their keys: idle, and at hand for their owners."""
    _at_hand: dict[object, PoolConnection]
    """Connections of leases that are over, each for the thread that used it: idle as well. Those
    under another key are for nobody, and about to be collected."""
    _popped: dict[str, int]

    def _prepare_shell(self) -> None:
        # Guards `_workers`, `_born`, `_outstanding`. Taken inside the pool's lock, never around it.
        self._jobs_lock = threading.RLock()
        self._pid = os.getpid()
        self._outstanding = self._born = 0
        self._popped = {}
        self._inside = 0
        self._resting = {}
        self._at_hand = {}

    def _collect_locked(self) -> None:
        """Put what rests among the idle. In `State`."""
        raise NotImplementedError

    # -- threads

    def _start_workers(self) -> None:
        # The standard Queue cannot be entered twice by one thread, which a finalizer that
        # gives a connection back may do; this one can.
        self._tasks = SimpleQueue()  # type: ignore[assignment]

    def schedule_task(self, task: MaintenanceTask, delay: float) -> None:
        """Queue a job in `delay` seconds, if the pool is still open by then. Does not block."""
        clock.enter(delay, task)

    def run_task(self, task: MaintenanceTask) -> None:
        """Queue a job, and start a worker for it if all of them are busy.

        Raises RuntimeError where there is no worker, and the system gives no thread for one.
        """
        with self._jobs_lock:
            stops = isinstance(task, StopWorker)
            # Counted first: after an interrupt there may be a worker too many, and none too few.
            self._outstanding += not stops
            self._tasks.put_nowait(task)
            if not stops:
                busy = len(self._workers) < min(self._outstanding, self.num_workers)
                if busy and not self._closed:
                    self._add_worker()

    def _add_worker(self) -> None:
        name = f"{self.name}-worker-{len(self._workers)}"
        self._born += 1  # first: an interrupt may leave one that runs, and is in no list
        try:
            self._workers.append(spawn(_work, args=(ref(self), self._tasks), name=name))
        except RuntimeError:  # the system gives no more threads: those there are will come to it
            self._born -= 1
            if not self._workers:
                raise

    def job_done(self) -> None:
        """Note that a worker is free again."""
        with self._jobs_lock:
            self._outstanding -= 1

    def retire_worker(self) -> bool:
        """Strike out the calling worker if there is no job; return False where there is one."""
        with self._jobs_lock:  # nobody can queue one meanwhile
            if not self._tasks.empty():
                return False
            self._born -= 1
            me = threading.current_thread()
            if me in self._workers:  # or an interrupt hit whoever started it
                self._workers.remove(me)
            return True

    def _signal_stop_worker(self) -> list[Any]:
        clock.look()
        with self._jobs_lock:  # no worker may be born between the count and the farewells
            for _ in range(self._born - len(self._workers)):
                self.run_task(StopWorker(self))
            self._born = 0
            return super()._signal_stop_worker()

    def __del__(self) -> None:
        # psycopg_pool joins its threads here. The finalizer may run in one of them.
        if not getattr(self, "_closed", True):
            self._signal_stop_worker()

    @property
    def ended(self) -> bool:
        """Whether the pool is closed for good, not only unopened."""
        return self._closed and self._opened

    # -- refusals, in our own words

    def _check_open(self) -> None:
        if self.ended:
            raise PoolClosed(
                f"pool {self.name!r} has been closed and cannot be opened again: make a new one",
                pool=self.name,
            )

    def _check_open_getconn(self) -> None:
        if self._closed:
            state = "closed" if self._opened else "not open yet"
            raise PoolClosed(f"pool {self.name!r} is {state}", pool=self.name)

    # -- psycopg_pool's statistics, from our counts

    def get_stats(self) -> dict[str, int]:
        """Return psycopg_pool's statistics under psycopg_pool's names, zeros included."""
        return {key: value - self._popped.get(key, 0) for key, value in self._counted().items()} | (
            self._get_measures()
        )

    def pop_stats(self) -> dict[str, int]:
        """Return the statistics, and begin to count anew. Histograms and `stats()` go on."""
        counted = self._counted()
        popped, self._popped = self._popped, counted
        return {key: value - popped.get(key, 0) for key, value in counted.items()} | (
            self._get_measures()
        )

    @critical
    def _counted(self) -> dict[str, int]:
        ledger = self._ledger
        ledger.count_turns_locked()
        wait, use, connect = (
            histogram.snapshot() for histogram in (ledger.wait, ledger.use, ledger.connect)
        )
        return {
            self._REQUESTS_NUM: ledger.acquired + ledger.timeouts + ledger.too_many_waiters,
            self._REQUESTS_QUEUED: ledger.waited + ledger.timeouts,
            self._REQUESTS_WAIT_MS: round(wait.sum * 1000),
            self._REQUESTS_ERRORS: ledger.timeouts + ledger.too_many_waiters,
            self._USAGE_MS: round(use.sum * 1000),
            self._RETURNS_BAD: ledger.closed["broken"] + ledger.closed["active"],
            self._CONNECTIONS_NUM: ledger.connects + ledger.connect_errors,
            self._CONNECTIONS_MS: round(connect.sum * 1000),
            self._CONNECTIONS_ERRORS: ledger.connect_errors,
            self._CONNECTIONS_LOST: ledger.closed["dead"] + ledger.closed["silent"],
        }

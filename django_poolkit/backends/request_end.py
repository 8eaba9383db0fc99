"""The end of a request: every lease that it took comes home, whatever became of its threads.

A server may cancel a request whose view still runs in a thread, and a view may leave threads
behind. A connection must not be used by two threads at once; so a lease is ended by the thread
that took it, or by another one when that thread has ended, or has gone on to its next job.
"""

from __future__ import annotations

import logging
import sys
import threading
from contextlib import suppress
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Final

from django_poolkit.backends.request import Held, RequestScope
from django_poolkit.pools.errors import PoolError
from django_poolkit.pools.forks import in_child
from django_poolkit.pools.lease import Lease
from django_poolkit.pools.patched import is_patched

logger = logging.getLogger("django_poolkit.request")

# Seconds between two looks at threads that were busy when their request ended: the first, and
# the longest, reached by doubling.
_ROUND: Final = 0.02
_LONGEST_ROUND: Final = 1.0

# Where a worker thread waits for its next job: module and function. Python and anyio.
_LOOPS: Final = {("concurrent.futures.thread", "_worker"), ("anyio._backends._asyncio", "run")}
_WAITS: Final = ("queue", "threading")


def finish(scope: RequestScope) -> None:
    """End the leases of a request that is over. Does not raise.

    Those of the calling thread and of threads without work end now, which blocks for the round
    trip of a rollback or reset each; the others when their threads are done with them.
    """
    scope.over = True
    if scope.leases:
        _end_where_possible(scope)
        if scope.leases:
            watch(scope)


def let_go(scope: RequestScope) -> None:
    """Leave the leases of the calling thread to whichever thread ends them. Never blocks."""
    me = threading.current_thread()
    with _gate:
        for lease, held in list(scope.leases.items()):
            if held.thread is me:
                scope.leases[lease] = held._replace(thread=None)


def watch(scope: RequestScope) -> None:
    """Have the leases of a scope ended as their threads are done with them.

    Does not block, and may be called by a finalizer.
    """
    _watch.add(scope)


def goes_on(scope: RequestScope, lease: Lease) -> bool:
    """Return whether the calling thread, about to use a lease of a request over, has it still."""
    with _gate:
        held = scope.leases.get(lease)
        if held is None or held.thread is None:
            return False
        scope.leases[lease] = held._replace(job=None)  # perhaps another one than it was met in
        return True


# Between "that thread is done with it" and "so its lease is mine" the thread must not come back
# to the connection: it passes this gate as it does. Reentrant for the sake of finalizers.
_gate = threading.RLock()


def _end_where_possible(scope: RequestScope) -> None:
    me = threading.current_thread()
    for lease, held in list(scope.leases.items()):
        if held.thread is me:
            _close(scope, lease, held)
        elif _take(scope, lease):
            _release(scope, lease)


def _close(scope: RequestScope, lease: Lease, held: Held) -> None:
    """End a lease in its own thread, by the wrapper that holds it."""
    if held.wrapper.holds(lease):
        try:
            held.wrapper.close()
        except Exception:
            logger.exception("event=close_failed alias=%s", held.wrapper.alias)
    if scope.claim(lease):  # the wrapper has moved on, or its close() stopped half way
        _release(scope, lease)


def _take(scope: RequestScope, lease: Lease) -> bool:
    """Claim the lease of another thread, if that one is done. The wrapper notices later."""
    with _gate:
        held = scope.leases.get(lease)
        if held is None:
            return False
        if held.thread is not None and held.thread.is_alive():
            if is_patched("threading"):  # a greenlet: nobody can see at which job it is
                return False
            job = _job_of(held.thread)
            if job is not None and held.job is None:
                scope.leases[lease] = held._replace(job=job)
                return False
            if job is not None and job is held.job:
                return False
            # A background task may enter atomic() in one job of its thread, and leave it in
            # another. A request that is over cannot.
            if held.late and held.wrapper.in_atomic_block:
                return False
        return scope.claim(lease)


def _job_of(thread: threading.Thread) -> FrameType | None:
    """Return the outermost frame of what a thread does, None where it waits for a job.

    A thread that is no worker, or of a kind unknown, is at one job until it ends.
    """
    frame = sys._current_frames().get(thread.ident or 0)
    outermost, job = frame, None
    while frame is not None:
        module = frame.f_globals.get("__name__")
        if (module, frame.f_code.co_name) in _LOOPS:
            return job
        if job is not None or module not in _WAITS:
            job = frame
        outermost, frame = frame, frame.f_back
    return outermost


def _release(scope: RequestScope, lease: Lease) -> None:
    scope.note_end(lease)
    try:
        with suppress(PoolError):  # a finalizer may be faster
            lease.release()
    except Exception:
        logger.exception("event=release_failed pool=%s", lease.pool.name)


class _Watch:
    """A thread that looks at busy threads, as long as there are any."""

    def __init__(self) -> None:
        # Reentrant, since a finalizer may call add() inside of it. Guards the two below.
        self._lock = threading.RLock()
        self._scopes: set[RequestScope] = set()
        self._thread: threading.Thread | None = None
        # Reentrant as well, which an Event is not.
        self._wake: SimpleQueue[None] = SimpleQueue()

    def add(self, scope: RequestScope) -> None:
        with self._lock:
            self._scopes.add(scope)
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="poolkit-request-end", daemon=True)
                # Refused while the interpreter ends, which ends the connections as well.
                with suppress(RuntimeError):
                    thread.start()
                    self._thread = thread
        self._wake.put(None)

    def _run(self) -> None:
        seconds = _ROUND
        while True:
            try:
                self._wake.get(timeout=seconds)
                seconds = _ROUND
            except Empty:
                seconds = min(2 * seconds, _LONGEST_ROUND)
            with self._lock:
                scopes = list(self._scopes)
            for scope in scopes:
                _end_where_possible(scope)
            with self._lock:
                self._scopes.difference_update([scope for scope in scopes if not scope.leases])
                if not self._scopes:
                    self._thread = None
                    return


_watch = _Watch()


def _after_fork() -> None:
    # The child has neither the thread nor the leases of its parent, and perhaps a held lock.
    global _gate
    _gate = threading.RLock()
    _watch.__init__()  # type: ignore[misc]


in_child(_after_fork)

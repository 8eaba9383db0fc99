"""What an operator does to a running pool: pause, resume, recycle, resize, kill."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from time import monotonic, sleep
from typing import Final

import psycopg
from psycopg.pq import TransactionStatus

from django_poolkit.pools.lease import Lease
from django_poolkit.pools.postgres import late
from django_poolkit.pools.postgres.cancel_request import CancelRequest
from django_poolkit.pools.postgres.connection import DEMOTED, KILLED, PoolConnection
from django_poolkit.pools.postgres.fence import History
from django_poolkit.pools.postgres.growth import Attempt
from django_poolkit.pools.postgres.shell import Job, critical
from django_poolkit.pools.postgres.upkeep import Upkeep
from django_poolkit.pools.sizing import verify_sizes

logger = logging.getLogger("django_poolkit.pool")

# A pause that nobody ends is an outage of one's own making.
PAUSE: Final = 60.0
# Seconds that a cancelled statement has to end, before its socket is shut down.
_CANCELLED: Final = 1.0
# In a pause, how often it is looked for leases that were dropped, in seconds.
_ADOPTS: Final = 0.25
# Seconds for which a pool is left alone after it has been recycled because its server turned out
# to be a standby. They double while it goes on being one: who writes to a replica by mistake is
# not to have it connect anew all the time.
_SPARED: Final = (1.0, 10.0)


class Steering(Upkeep):
    """Takes orders. `ConnectionPool` is the whole."""

    # Guarded by the lock.
    _spared = 0.0
    _spared_until = float("-inf")

    def pause(self, seconds: float = PAUSE) -> None:
        """Give nothing out until `resume()`, or until `seconds` have passed.

        As with PgBouncer's PAUSE, idle connections are closed, leased ones when they come home,
        and none is opened, so that the server can be restarted or replaced. Does not block.
        Those who acquire wait up to their own timeout, then get PoolPaused. Raises ValueError
        for a time that never ends.
        """
        if not 0 < seconds <= threading.TIMEOUT_MAX:  # nan neither
            raise ValueError(f"seconds must be above 0 and finite; got {seconds!r}")
        again = self._paused()
        self._paused_until = monotonic() + seconds
        if self._closed:
            self.open()
        self.recycle()
        self.schedule_task(Job(self, "end_pause"), seconds)
        if not again:
            self.schedule_task(Job(self, "adopt_while_paused"), _ADOPTS)

    def adopt_while_paused(self) -> None:
        """Take back what finalizers could only report: in a pause nobody passes who acquires."""
        if self._paused():
            self.schedule_task(Job(self, "adopt_while_paused"), _ADOPTS)
            self._adopt_orphans()

    def open_paused(self, seconds: float) -> None:
        """Open, when somebody acquires, as one that has been paused for `seconds`.

        For those who are told that it is about to open. An open pool is not touched.
        """
        if self._closed:
            self._paused_until = max(self._paused_until, monotonic() + seconds)

    def resume(self) -> None:
        """End a pause: serve those who wait, in order."""
        self._start(self._resume())

    def end_pause(self) -> None:
        """Resume if the time of the pause is over; a later pause may have prolonged it."""
        if 0 < self._paused_until <= monotonic():
            self.resume()

    @critical
    def _resume(self) -> list[Attempt]:
        self._paused_until = 0.0
        self._serve_locked(monotonic())
        return self._plan_locked()

    def note_found(self) -> None:
        """Take back `note_lost()`: those who wait are served as soon as there are connections."""
        if self._lost_until:
            self._lost_until = 0.0
            self._start(self.look_after_waiters())

    def demand(self, least: History, *, renew: bool = False) -> bool:
        """Lead to no server any more that is on an earlier history than this.

        Where another one has been demanded before, and with `renew`, its connections are replaced
        as by `recycle()`, for they may be those of a server that has been replaced; and what is
        committed on one that is leased is looked at. Returns whether it is so. Does not block.
        """
        before, self.fence.least = self.fence.least, least
        if not renew and before in (None, least):
            return False
        self.recycle()
        self.fenced = self._generation
        return True

    def recycle(self) -> None:
        """Replace all connections: idle ones now, leased ones as they come home.

        What `credentials` have supplied is asked for anew.
        """
        if self._credentials is not None:
            self._credentials.forget()
        self.prober.release()
        self.positions.release()
        if self._orphans:
            self._call_adopter()
        self._carry_out(self._recycle("recycled"))

    @critical
    def _recycle(self, reason: str) -> tuple[list[PoolConnection], list[Attempt], str]:
        self._generation += 1
        gone = list(self._pool)
        self._pool.clear()
        self._ledger.closed[reason] += len(gone)
        return gone, self._plan_locked(), reason

    def drain(self) -> None:
        """Do as `recycle()`: psycopg_pool's name for it."""
        self.recycle()

    def demoted(self, connection: PoolConnection) -> None:
        """Give up a leased connection: its server has refused a write, being a standby.

        It is closed as it comes home. What else the pool has leads there as well, if the server
        was the primary once: so it is recycled, now and then. Does not block.
        """
        if self._demote(connection):
            logger.warning("pool=%s event=demoted", self.name)
            self.prober.release()
            self.positions.release()
            self._carry_out(self._recycle("read_only"))

    @critical
    def _demote(self, connection: PoolConnection) -> bool:
        """Mark the connection; return whether the others are to go with it."""
        old = connection._generation != self._generation  # they have been replaced since
        connection._generation = DEMOTED
        now = monotonic()
        if old or now < self._spared_until:
            return False
        first, longest = _SPARED
        again = now - self._spared_until < longest
        self._spared = min(longest, self._spared * 2) if again else first
        self._spared_until = now + self._spared
        return True

    def resize(self, min_size: int, max_size: int | None = None) -> None:
        """Change the sizes. Leased connections above `max_size` are closed as they come home.

        Raises ValueError for sizes that contradict each other.
        """
        self._carry_out(self._resize(*self._check_size(min_size, max_size)))

    def _check_size(self, min_size: int, max_size: int | None) -> tuple[int, int]:
        # As the base class does it, in words that name the values.
        sizes = min_size, min_size if max_size is None else max_size
        verify_sizes(*sizes)
        return sizes

    @critical
    def _resize(
        self, min_size: int, max_size: int
    ) -> tuple[list[PoolConnection], list[Attempt], str]:
        self._min_size, self._max_size = min_size, max_size
        gone = []
        while self._pool and self._size_locked() > max_size:
            gone.append(self._pool.popleft())
        self._ledger.closed["resized"] += len(gone)
        self._serve_locked(monotonic())  # shares are parts of what it was before
        return gone, self._plan_locked(), "resized"

    def _carry_out(self, decided: tuple[list[PoolConnection], list[Attempt], str]) -> None:
        gone, starts, reason = decided
        for connection in gone:
            self._close_for(connection, reason)
        if not self._closed:
            self._start(starts)

    # -- killing

    def kill(self, key: int) -> bool:
        """Take a lease's connection away from its owner; return False if there is no such lease.

        Does not block. The server is asked to cancel what runs; a second later, at once where
        nothing runs, the socket is shut down. The owner gets an OperationalError, and ends the
        lease, whose connection is never lent again. `LeaseStats.key` tells the key.
        """
        doomed = self._doom(key)
        if doomed is None:
            return False
        name = f"{self.name}-kill"
        threading.Thread(target=_cut_off, args=doomed, name=name, daemon=True).start()
        return True

    @critical
    def _doom(self, key: int) -> tuple[Lease, socket.socket, CancelRequest, bool] | None:
        reference = self._ledger.live.get(key)
        lease = None if reference is None else reference()
        connection = None if lease is None else lease.held
        if lease is None or connection is None or connection.closed:
            return None
        # From here on nobody else gets it, however late the cancellation reaches the server.
        connection._generation = KILLED
        runs = connection.pgconn.transaction_status == TransactionStatus.ACTIVE
        try:
            request = CancelRequest(connection)
            # A copy: the owner may close its own, and the number be another file's a moment later.
            line = socket.socket(fileno=os.dup(connection.pgconn.socket))
        except psycopg.OperationalError:
            return None  # its owner has closed it just now
        return lease, line, request, runs


def _cut_off(lease: Lease, line: socket.socket, request: CancelRequest, runs: bool) -> None:
    pool, seconds = lease.pool.name, lease.seconds()
    with line:
        try:
            if runs:
                _cancel(lease, request)
        finally:
            if not lease.released:
                with suppress(OSError):  # the server was faster
                    line.shutdown(socket.SHUT_RDWR)
        if not runs:  # but it may have begun just now
            _ask(lease, request.send_twice)
    logger.warning("pool=%s event=killed lease=%d seconds=%.1f", pool, lease.key, seconds)


def _cancel(lease: Lease, request: CancelRequest) -> None:
    """Have the server cancel what runs, until its owner has come back, or for a second."""
    until, pause = monotonic() + _CANCELLED, late.AGAIN
    asked = _ask(lease, request.send)
    again = monotonic() + pause
    while not lease.released and (now := monotonic()) < until:
        if asked and now >= again:
            asked, pause = _ask(lease, request.send), 2 * pause
            again = monotonic() + pause
        sleep(0.02)


def _ask(lease: Lease, send: Callable[[], None]) -> bool:
    try:
        send()
    except (psycopg.Error, OSError) as error:
        name = type(error).__name__
        logger.warning("pool=%s event=cancel_failed error=%s", lease.pool.name, name)
        return False
    return True

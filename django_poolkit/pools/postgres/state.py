"""What both ways share: the state of a pool, and what is decided about it.

Locking. `_lock` guards `_pool` (the idle ones), `_waiting`, `_growth`, `_ledger`, the sizes
and the state. Inside it nothing blocks, sends or logs: what is to be done is decided there,
and done after. The size is not kept but counted: a connection stands in exactly one of idle,
live leases and attempts, so that no interruption can make the sum drift.

A finalizer may run at any bytecode, inside the lock of the same thread too, where the state
is half changed. So `_inside` names the thread that is in there: what a finalizer gives back
then goes to `_orphans`, which everyone who passes clears.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Final, Literal, cast
from weakref import ref

from django_poolkit.pools.config import PoolConfig
from django_poolkit.pools.errors import PoolError
from django_poolkit.pools.events import Events
from django_poolkit.pools.lease import Lease
from django_poolkit.pools.observe import Observations
from django_poolkit.pools.postgres import late
from django_poolkit.pools.postgres.connection import DEMOTED, KILLED, PoolConnection, no_lease
from django_poolkit.pools.postgres.fence import Fence
from django_poolkit.pools.postgres.growth import Attempt, Growth
from django_poolkit.pools.postgres.positions import PositionReader
from django_poolkit.pools.postgres.prober import Prober
from django_poolkit.pools.postgres.shares import Shares
from django_poolkit.pools.postgres.shell import Shell, critical
from django_poolkit.pools.postgres.statements import Statements
from django_poolkit.pools.postgres.waiters import Lanes, Waiter, Waiters
from django_poolkit.pools.purpose import ToContext
from django_poolkit.pools.stats import PoolStats

_DOOMED: Final = {KILLED: "killed", DEMOTED: "read_only", late.DOUBTFUL: "cancelled"}

Orphan = tuple[Lease, Literal["leak", "release", "discard", "idle"]]
"""A lease that a finalizer could only report, and what it wanted."""


class State(Shell):
    """The state of a pool. All that ends in `_locked` is called under the lock."""

    config: PoolConfig
    aliases: tuple[str, ...]
    events: Events
    context: Callable[[], ToContext | None] | None = None
    """Called as a block or a task acquires here: returns what leads to what that is for."""
    prober: Prober
    """Asks the server beside the pool, which it does not open."""
    positions: PositionReader
    """The same, for how far the server has come."""
    fence: Fence
    """Servers that it must not lead to."""
    fenced = 0
    """Connections of an earlier generation are from before it was known which these are."""
    statements: Statements
    """What is taken note of as a statement begins."""
    _waiting: Waiters  # type: ignore[assignment]
    _shares: Shares | None
    """How much of the pool one kind of work may have, None where that is not limited."""
    _growth: Growth
    _orphans: deque[Orphan]
    _lends_to_tasks = False
    """Whether a task has ever acquired."""
    _adopting = False
    """Whether a worker has been told of orphans, and has not come to it."""
    # No defaults on the class: CPython is slow on an attribute that is both, and all ask for them.
    _generation: int
    greeting: object
    """Another one when each connection is to be shown again to those who prepare new ones."""
    _paused_until: float
    _lag: tuple[float | None, int | None] = None, None
    """By how much its server is behind: seconds, and bytes of the log."""
    _told_full = False
    """Whether it has been said that all are leased and somebody waits; ends with the queue."""
    _stack_due: float
    """When the next lease is to remember its stack; not guarded, a race takes one too many."""

    def _lend_locked(self, lease: Lease, connection: PoolConnection, now: float) -> None:
        connection._parked = False
        connection._pool = self
        connection._lease_ref = ref(lease)
        self._ledger.lend_locked(lease, connection, now)

    def _park(self, connection: PoolConnection) -> None:
        connection._parked = True
        connection._pool = None  # as psycopg_pool does, against a reference cycle
        connection._lease_ref = no_lease
        connection._owned_lease = None

    def _give_locked(self, connection: PoolConnection, now: float) -> None:
        """Hand the connection to the first waiter; where there is none, it becomes idle."""
        ledger, waiting, shares = self._ledger, self._waiting, self._shares
        waiter: Waiter | None
        while waiting.queue and not (self._paused_until and self._paused()):
            if shares is None:
                waiter = waiting.popleft()
            elif (waiter := shares.pop(self._lanes, ledger, self._max_size)) is None:
                break
            # Lent first: the waiter may run the moment it has been set. As `_lend_locked()`,
            # spelled out: under load each release passes here, and all others want the lock.
            lease = waiter.lease
            connection._parked, connection._pool = False, self
            lease._connection, lease.since = connection, now
            connection._lease_ref = ledger.live[lease.key] = ref(lease)
            ledger.acquired += 1
            if waiter.set(connection):
                ledger.waited += 1
                ledger.wait.observe(now - waiter.since)
                return
            ledger.revoke_locked(lease)
            self._park(connection)
        self._pool.append(connection)
        if self._pool_full_event is not None and len(self._pool) >= self._min_size:
            self._pool_full_event.set()

    def _collect_locked(self) -> None:
        """Settle the leases that rest: their connections become idle, or a waiter's."""
        found = []
        while self._resting:
            try:
                found.append(self._resting.popitem()[1])
            except KeyError:  # its owner was faster
                break
        if self._at_hand:
            self._take_in_locked()
        for lease in reversed(found):  # so that the one used last is the next to be used
            connection = self._roused(lease)
            if self._doubted_locked(connection):
                self._orphans.append((lease, "release"))  # which closes it, outside of the lock
                continue
            self._ledger.settle_locked(lease, monotonic())
            lease.released, lease._connection = True, None
            self._park(connection)
            self._give_locked(connection, monotonic())

    def _take_in_locked(self) -> None:
        """Put among the idle what threads have left at hand."""
        raise NotImplementedError

    @staticmethod
    def _roused(lease: Lease) -> PoolConnection:
        """Return the connection of a lease that has rested, which has been no use of it."""
        connection: PoolConnection = lease._connection
        lease.since += monotonic() - connection._used_at
        return connection

    def _doubted_locked(self, connection: PoolConnection) -> bool:
        """Return whether a connection that rests has to go."""
        return (
            self._closed
            or connection._generation != self._generation
            or connection._expire_at <= monotonic()
            or self._size_locked() > self._max_size
        )

    def _wanting_locked(self) -> int:
        """Return how many of the queue could use a connection: not those of a share used up."""
        if self._shares is None or not self._waiting:
            return len(self._waiting)
        return self._shares.wanting(self._lanes, self._ledger, self._max_size)

    def _serve_locked(self, now: float) -> None:
        """Hand idle connections to those who may have them: a share, or a pause, has ended."""
        while self._pool and not self._paused() and self._wanting_locked():
            self._give_locked(self._pool.pop(), now)

    @property
    def _lanes(self) -> Lanes:
        return cast(Lanes, self._waiting)

    def _stale_locked(self, connection: PoolConnection, now: float) -> str | None:
        if self._closed:
            return "pool_closed"
        if connection._generation != self._generation:
            return _DOOMED.get(connection._generation, "recycled")
        if connection._expire_at <= now and not self._kept_locked(connection, now):
            return "max_lifetime"
        # Its own lease is struck out already, so the size is that of the others.
        return "resized" if self._size_locked() >= self._max_size else None

    def _kept_locked(self, connection: PoolConnection, now: float) -> bool:
        """Return whether an old one is kept for the minimum's sake, until another is replaced.

        Those that were born together would die together, and leave a pool of nothing but
        connects. Lifetimes are spread below `max_lifetime`, so there is time; then it goes.
        """
        short = self._size_locked() < self._min_size  # its own lease is struck out already
        young = now < connection._created_at + self.max_lifetime
        return short and young and len(self._growth) > 0

    def _size_locked(self) -> int:
        return len(self._pool) + len(self._ledger.live) + len(self._growth.attempts)

    @critical
    def _get_measures(self) -> dict[str, int]:
        # psycopg_pool's own counter stands still here: the size is counted, not kept.
        return super()._get_measures() | {self._POOL_SIZE: self._size_locked()}

    def _paused(self) -> bool:
        # By the clock, not by the job that ends a pause: it may be stuck behind slow connects.
        return self._paused_until > 0 and monotonic() < self._paused_until

    def _plan_locked(self) -> list[Attempt]:
        """Return the connects to start now: what `min_size` lacks, and what waiters need."""
        full = len(self._pool) + len(self._ledger.live) >= self._max_size
        if self._closed or (full and not self._growth.attempts) or self._paused():
            return []
        starts = self._growth.add(max(0, self._min_size - self._size_locked()))
        if wanting := self._wanting_locked():
            room = self._max_size - self._size_locked()
            starts += self._growth.plan(waiters=wanting, room=room)
        return starts

    @critical
    def look_after_waiters(self) -> list[Attempt]:
        """Return what a waiter finds undone: attempts that nobody began, or that are missing.

        Frees the slots of leases that died without a word, and serves the queue where a pause
        has run out and nobody has noticed.
        """
        if self._closed or self._paused():
            return []
        self._ledger.purge_locked()
        self._serve_locked(monotonic())
        room = self._max_size - self._size_locked()
        new = self._growth.plan_new(waiters=self._wanting_locked(), room=room)
        return new + self._growth.stranded()

    def observations(self) -> Observations:
        """Return what `observe` has found since the pool was made. Does not block.

        Only the leases of Django's connections are observed. Raises PoolError where the pool
        does not observe.
        """
        if self.statements.recorder is None:
            raise PoolError(
                f"pool {self.name!r} observes nothing: set its option `observe` to True, in "
                "session mode",
                pool=self.name,
            )
        return self.statements.recorder.snapshot()

    @property
    def load(self) -> int:
        """Leases, and those who wait for one, at this moment. Takes no lock."""
        return len(self._ledger.live) - len(self._resting) - len(self._at_hand) + len(self._waiting)

    def note_lag(self, seconds: float | None, size: int | None) -> None:
        """Enter how far its server is behind, in seconds and in bytes; None for not known."""
        self._lag = seconds, size

    @critical
    def count_eviction(self, reason: str) -> None:
        """Count that its server is not read any more."""
        self._ledger.evictions[reason] += 1

    @critical
    def count_retry(self, reason: str) -> None:
        """Count a read that failed on its server, and is made again on another one."""
        self._ledger.read_retries[reason] += 1

    @critical
    def count_repeat(self, kind: str) -> None:
        """Count a statement, or a call, that failed here, and is made again on any connection."""
        self._ledger.retries[kind] += 1

    def _stats_locked(self, now: float) -> PoolStats:
        ledger = self._ledger
        ledger.count_turns_locked()
        left = max(0.0, self._paused_until - now)
        lag, lag_bytes = self._lag
        state = "closed" if self.ended else "paused" if left else "open"
        return PoolStats(
            name=self.name,
            aliases=self.aliases,
            mode=self.config.mode,
            state=state,
            pause_left=left,
            min_size=self._min_size,
            max_size=self._max_size,
            size=self._size_locked(),
            idle=len(self._pool),
            used=len(ledger.live),
            connecting=len(self._growth),
            probing=self.prober.connections + self.positions.connections,
            lag=lag,
            lag_bytes=lag_bytes,
            waiters=len(self._waiting),
            oldest_waiter=self._waiting.oldest(now),
            oldest_lease=ledger.oldest_locked(now),
            standstill=ledger.standstill_locked(now),
            acquired=ledger.acquired,
            waited=ledger.waited,
            timeouts=ledger.timeouts,
            too_many_waiters=ledger.too_many_waiters,
            connects=ledger.connects,
            connect_errors=ledger.connect_errors,
            closed=dict(ledger.closed),
            resets=ledger.resets,
            pins=dict(ledger.pins),
            leaks=ledger.leaks,
            overdue=ledger.overdue,
            shares=(
                self._shares.stats(self._lanes, ledger, self._max_size) if self._shares else {}
            ),
            evictions=dict(ledger.evictions),
            read_retries=dict(ledger.read_retries),
            retries=dict(ledger.retries),
            last_connect_error=ledger.last_connect_error or ledger.last_check_error,
            wait=ledger.wait.snapshot(),
            use=ledger.use.snapshot(),
            connect=ledger.connect.snapshot(),
        )

"""What a pool remembers: counts, histograms, and who holds what.

Every method ending in `_locked` is called under the lock of the pool that owns the ledger.
"""

from __future__ import annotations

import itertools
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from operator import attrgetter, call
from time import monotonic
from typing import Any, Final

from django_poolkit.pools.lease import Lease, format_stack
from django_poolkit.pools.sparing import Sparing
from django_poolkit.pools.statement_kinds import verb_of
from django_poolkit.pools.stats import Histogram, LeaseStats

PURGED: Final = 10_000
"""Leases that are remembered after they were struck out as dead. One pass of the garbage
collector, which is what finalizers are late by, ends no more than there were."""

_since = attrgetter("since")


class Ledger:
    """Counts, histograms and live leases of one pool."""

    def __init__(self) -> None:
        self.new_key: Callable[[], int] = itertools.count(1).__next__
        """Returns a key for a lease. Needs no lock: the counter is atomic."""
        self.turns: deque[float] = deque()
        """Seconds of each turn that is over, of leases that rested after it. Owners add to it
        without the lock: to append is atomic, and only who has the lock takes out."""
        # All guarded by the pool's lock. The leases are held weakly: one that its owner
        # dropped has to die to be noticed.
        self.live: dict[int, weakref.ref[Lease]] = {}
        self.reported: set[int] = set()
        self.purged: dict[int, None] = {}
        """The latest leases that were struck out as dead, in order. Of some the finalizer may be
        about to run. Who asks for one needs no lock."""
        self.acquired = self.waited = self.timeouts = self.too_many_waiters = 0
        self.connects = self.connect_errors = self.resets = self.leaks = self.overdue = 0
        self.closed: Counter[str] = Counter()
        self.pins: Counter[str] = Counter()
        self.evictions: Counter[str] = Counter()
        self.read_retries: Counter[str] = Counter()
        self.retries: Counter[str] = Counter()
        self.wait, self.use, self.connect = Histogram(), Histogram(), Histogram()
        self.settled_at = 0.0
        self.last_connect_error: str | None = None
        self.last_check_error: str | None = None
        self._failures = Sparing()

    def lend_locked(self, lease: Lease, connection: Any, now: float) -> None:
        """Enter a lease that begins."""
        lease._connection = connection
        lease.since = now
        self.live[lease.key] = weakref.ref(lease)
        self.acquired += 1

    def settle_locked(self, lease: Lease, now: float) -> bool:
        """Strike out a lease that ends; return False if that has been done already."""
        if self.live.pop(lease.key, None) is None:
            return False
        if self.reported:
            self.reported.discard(lease.key)
        self.use.observe(now - lease.since)
        self.settled_at = max(self.settled_at, now)
        return True

    def count_turns_locked(self) -> None:
        """Enter the turns that are over: each was acquired, and used, by itself."""
        turns = self.turns
        over = [turns.popleft() for _ in range(len(turns))]  # an owner may add one meanwhile
        self.use.observe_all(over)
        self.acquired += len(over)

    def revoke_locked(self, lease: Lease) -> None:
        """Undo `lend_locked`: what was lent turned out to be of no use. The lease goes on."""
        self.live.pop(lease.key, None)
        self.reported.discard(lease.key)
        self.acquired -= 1
        lease._connection = None
        lease.key = self.new_key()

    def oldest_locked(self, now: float) -> float:
        """Return the age of the oldest lease in seconds, 0.0 where there is none."""
        return now - min((lease.since for lease in self.leases_locked()), default=now)

    def standstill_locked(self, now: float) -> float:
        """Return the seconds since a lease began or ended, 0.0 where nothing is leased."""
        newest = max((lease.since for lease in self.leases_locked()), default=None)
        return 0.0 if newest is None else now - max(newest, self.settled_at)

    def overdue_locked(self, after: float, now: float) -> list[Lease]:
        """Return the leases held for longer than `after` seconds, each one only once."""
        overdue = []
        for key, reference in list(self.live.items()):
            lease = reference()
            if lease is None or lease._connection is None:  # it is over, and about to begin anew
                continue
            if now - lease.since > after and key not in self.reported:
                self.reported.add(key)
                lease.overdue = True
                self.overdue += 1
                overdue.append(lease)
        return overdue

    def connect_failed_locked(self, error: str) -> int:
        """Enter a connect that failed; return how many to say so of, 0 while it was said lately."""
        self.connect_errors += 1
        self.last_connect_error = error
        return self._failures.times(error)

    def purge_locked(self) -> int:
        """Strike out leases that died without a word, as when a signal hits their finalizer.

        Their connections have died with them. Returns how many there were.
        """
        dead = [key for key, reference in list(self.live.items()) if reference() is None]
        for key in dead:
            self.live.pop(key, None)
            self.reported.discard(key)
        if dead:
            self.closed["lost"] += len(dead)
            self.purged.update(dict.fromkeys(dead))
            for key in list(self.purged)[:-PURGED]:
                del self.purged[key]
        self.leaks += len(dead)
        return len(dead)

    def known_locked(self) -> Iterator[Lease]:
        """Return the leases that are entered and have not died, in no order.

        In C: each who queues has them looked through, and who is served.
        """
        return filter(None, map(call, self.live.values()))

    def leases_locked(self) -> list[Lease]:
        """Return the live leases, oldest first; not one that is over, and about to begin anew."""
        live = [lease for lease in self.known_locked() if lease._connection is not None]
        return sorted(live, key=_since)  # of a lease that rested, the present turn's begin


def describe(lease: Lease) -> LeaseStats:
    """Return a lease as a value: who has it, since when, what for, and how the server sees it."""
    connection = lease.held
    pid, status = 0, "unknown"
    if connection is not None and not connection.closed:
        with suppress(Exception):  # its owner closes it at this very moment: the driver's error
            pid = connection.info.backend_pid
            status = connection.info.transaction_status.name.lower()
    context = None if lease.context is None else lease.context()
    return LeaseStats(
        key=lease.key,
        seconds=monotonic() - lease.since,
        thread=lease.thread,
        where=None if context is None else context.where(),
        statement=None if lease.statement is None else verb_of(lease.statement),
        status=status,
        pinned=None if lease.pinned is None else str(lease.pinned),
        backend_pid=pid,
        stack=format_stack(lease.stack),
    )

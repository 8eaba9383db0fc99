"""The queue of those who wait for a connection: first come, first served.

Threads wait here, and the tasks of event loops in the same queue (`task_waiter.py`). The hand-over
is a handshake: a waiter that has gone refuses, and the connection goes to the next.
"""

from __future__ import annotations

import _thread
import threading
from collections import OrderedDict
from collections.abc import Iterable
from time import monotonic
from typing import Any

from django_poolkit.pools.lease import Lease


class Waiter:
    """One place in the queue. Its state changes under the pool's lock only."""

    __slots__ = ("connection", "error", "lease", "saturates", "since")

    def __init__(self, lease: Lease) -> None:
        self.lease = lease
        self.since = monotonic()
        self.saturates = False
        """Whether it is the first of the queue that found all connections leased."""
        self.connection: Any = None
        self.error: BaseException | None = None

    @property
    def settled(self) -> bool:
        """Whether it has been served or refused."""
        return self.connection is not None or self.error is not None

    def set(self, connection: Any) -> bool:
        """Hand over a connection; return False if the waiter is settled already, or has gone."""
        if self.connection is not None or self.error is not None:
            return False
        self.connection = connection
        if self._wake():
            return True
        self.connection = None
        return False

    def fail(self, error: BaseException) -> bool:
        """Refuse it; return False if it is settled already, or has gone."""
        if self.settled:
            return False
        self.error = error
        return self._wake()

    def _wake(self) -> bool:
        """Wake who sleeps; return False if nobody does any more. Does not block."""
        raise NotImplementedError


class ThreadWaiter(Waiter):
    """A thread in the queue. One raw lock is all that it sleeps on."""

    __slots__ = ("_gate",)

    def __init__(self, lease: Lease) -> None:
        # As `Waiter` has it, spelled out: each hand-over under load begins here.
        self.lease = lease
        self.since = monotonic()
        self.saturates = False
        self.connection = self.error = None
        gate = self._gate = _thread.allocate_lock()
        gate.acquire()

    def _wake(self) -> bool:
        self._gate.release()
        return True

    def wait(self, timeout: float) -> bool:
        """Sleep until it is settled, or `timeout` seconds at most; return whether it is settled."""
        gate = self._gate
        if gate.acquire(True, max(0.0, min(timeout, threading.TIMEOUT_MAX))):
            gate.release()  # so that who waits again is not kept
            return True
        return False


class Waiters:
    """The waiters of one pool, in order. Guarded by the pool's lock."""

    __slots__ = ("queue",)

    def __init__(self) -> None:
        # Ordered, and a waiter that gives up leaves from the middle in constant time.
        self.queue: OrderedDict[Waiter, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self.queue)

    def append(self, waiter: Waiter) -> None:
        """Queue at the end."""
        self.queue[waiter] = None

    def append_first(self, waiter: Waiter) -> None:
        """Queue again at the front: what it was handed turned out to be dead."""
        self.queue[waiter] = None
        self.queue.move_to_end(waiter, last=False)

    def remove(self, waiter: Waiter) -> None:
        """Leave the queue, if still in it."""
        self.queue.pop(waiter, None)

    def popleft(self) -> Waiter:
        """Take the first out of the queue. It may have been settled meanwhile."""
        waiter, _ = self.queue.popitem(last=False)
        return waiter

    def take_all(self) -> list[Waiter]:
        """Empty the queue and return who was in it."""
        waiters = list(self.queue)
        self.queue.clear()
        return waiters

    def oldest(self, now: float) -> float:
        """Return how long the first has waited, in seconds; 0.0 where nobody waits."""
        return now - next(iter(self.queue)).since if self.queue else 0.0


class Lanes(Waiters):
    """A queue with a lane for each share, so that one that is used up is passed by at no cost.

    Each waiter keeps its place among all: the first of the lanes that may go is the first.
    """

    __slots__ = ("_first", "_last", "lanes")

    def __init__(self) -> None:
        super().__init__()
        self._first = self._last = 0
        self.lanes: dict[str | None, OrderedDict[Waiter, int]] = {None: OrderedDict()}
        """The waiters by their share, None for none, each with its place."""

    def append(self, waiter: Waiter) -> None:
        super().append(waiter)
        self._last += 1
        self.lanes.setdefault(waiter.lease.share, OrderedDict())[waiter] = self._last

    def append_first(self, waiter: Waiter) -> None:
        super().append_first(waiter)
        self._first -= 1
        lane = self.lanes.setdefault(waiter.lease.share, OrderedDict())
        lane[waiter] = self._first
        lane.move_to_end(waiter, last=False)

    def remove(self, waiter: Waiter) -> None:
        super().remove(waiter)
        if (lane := self.lanes.get(waiter.lease.share)) is not None:
            lane.pop(waiter, None)

    def popleft(self) -> Waiter:
        waiter = super().popleft()
        self.lanes[waiter.lease.share].pop(waiter, None)
        return waiter

    def take_all(self) -> list[Waiter]:
        self.lanes = {None: OrderedDict()}
        return super().take_all()

    def pop_first(self, open_lanes: Iterable[str | None]) -> Waiter | None:
        """Take the first of these lanes out of the queue; None where nobody is in them."""
        firsts = [
            (lane[first], first)
            for lane in map(self.lanes.__getitem__, open_lanes)
            if (first := next(iter(lane), None)) is not None
        ]
        if not firsts:
            return None
        _, waiter = min(firsts, key=lambda found: found[0])
        self.remove(waiter)
        return waiter

"""How many connects are under way, and when a failed one is tried again.

Rules: never more attempts than waiters, than free slots, or than `workers`; an attempt that
comes to its turn when nobody waits any more is dropped; a failed one is repeated after a
pause that doubles up to a cap, and a new waiter cuts one pause short. Of many that have failed,
as where `min_size` is large, no more than `workers` are repeated in a pause: one success wakes all.
"""

from __future__ import annotations

from collections import deque
from time import monotonic
from typing import Final

from django_poolkit.pools.chance import chance

FIRST_PAUSE: Final = 0.1
# A waiter ends a pause early, but not more often than this: an outage with a thousand waiters
# must not become a thousand connects.
WAKE_INTERVAL: Final = 0.1
# Seconds after which an attempt that no worker has begun is handed to them again: an interrupt
# may have hit whoever planned it before it was queued. Twice in the queue does no harm.
STRANDED: Final = 0.2
# A tenth up or down, so that processes that lost one server do not come back in step.
JITTER: Final = 0.1


class Attempt:
    """One connect, from its planning to its success or surrender. Counts as connecting."""

    __slots__ = ("nap", "pause", "planned", "replaces", "sleeping", "started")

    def __init__(self, *, replaces: bool = False) -> None:
        self.replaces = replaces
        """Whether it was planned for an old connection, not for a waiter."""
        self.pause = 0.0
        self.nap = 0
        """Counts its pauses: a clock set for one must not end the next."""
        self.planned = monotonic()
        self.started = 0.0
        self.sleeping = False


class Growth:
    """The attempts of one pool. Guarded by the pool's lock, every method."""

    def __init__(self, *, workers: int, cap: float) -> None:
        self._workers = workers
        self._cap = cap
        self._woken_at = 0.0
        self._retried: deque[float] = deque(maxlen=workers)
        """When the last ones were repeated at the end of their pause, the oldest first."""
        self.attempts: set[Attempt] = set()

    def __len__(self) -> int:
        return len(self.attempts)

    def plan(self, *, waiters: int, room: int) -> list[Attempt]:
        """Return the attempts to hand to workers now: new ones, or one woken from its pause."""
        return self.plan_new(waiters=waiters, room=room) or self._wake_one()

    def plan_new(self, *, waiters: int, room: int) -> list[Attempt]:
        """Return new attempts to hand to workers now, and leave the sleeping ones alone."""
        count = len(self.attempts)
        new = [Attempt() for _ in range(min(waiters - count, room, self._workers - count))]
        self.attempts.update(new)
        return new

    def stranded(self) -> list[Attempt]:
        """Return the attempts that were planned and have not been begun since."""
        now = monotonic()
        found = [
            attempt
            for attempt in self.attempts
            if not attempt.started and not attempt.sleeping and now - attempt.planned > STRANDED
        ]
        for attempt in found:
            attempt.planned = now
        return found

    def add(self, count: int, *, replaces: bool = False) -> list[Attempt]:
        """Plan `count` attempts that no waiter asked for: to fill up, or to replace."""
        new = [Attempt(replaces=replaces) for _ in range(count)]
        self.attempts.update(new)
        return new

    def admit(self, attempt: Attempt, *, waiters: int, short: bool) -> bool:
        """Decide, as the attempt comes to its turn, whether it is still wanted.

        `short` says that the pool is below its `min_size` without it. One that is not wanted
        is struck out.
        """
        if attempt not in self.attempts or attempt.started:
            return False  # closed or drained meanwhile, or woken twice
        running = sum(1 for other in self.attempts if other.started)
        if not (short or attempt.replaces or waiters > running):
            self.attempts.discard(attempt)
            return False
        attempt.started = monotonic()
        attempt.sleeping = False
        return True

    def succeeded(self, attempt: Attempt) -> list[Attempt]:
        """Strike out the attempt; return all that sleep: the server is back."""
        self.attempts.discard(attempt)
        sleepers = [other for other in self.attempts if other.sleeping]
        for other in sleepers:
            self._wake(other)
        return sleepers

    def failed(self, attempt: Attempt, *, wanted: bool) -> float | None:
        """Return the pause before the attempt's next try in seconds, None if it gives up."""
        attempt.started = 0.0
        if not wanted or attempt not in self.attempts:
            self.attempts.discard(attempt)
            return None
        attempt.sleeping = True
        attempt.nap += 1
        return self._next_pause(attempt)

    def due(self, attempt: Attempt, nap: int) -> float | None:
        """Return for how many seconds the attempt sleeps on; 0.0 ends its pause.

        None where that pause has ended already.
        """
        if attempt not in self.attempts or not attempt.sleeping or attempt.nap != nap:
            return None
        now, least = monotonic(), attempt.pause * (1 - JITTER)
        if len(self._retried) == self._workers and now - self._retried[0] < least:
            return self._next_pause(attempt)  # enough others have found out just now
        self._retried.append(now)
        self._wake(attempt)
        return 0.0

    def _next_pause(self, attempt: Attempt) -> float:
        attempt.pause = min(self._cap, attempt.pause * 2 or FIRST_PAUSE)
        return attempt.pause * chance.uniform(1 - JITTER, 1 + JITTER)

    def asleep(self) -> bool:
        """Return whether there are attempts, and all of them have failed and pause."""
        return bool(self.attempts) and all(attempt.sleeping for attempt in self.attempts)

    def pending(self, now: float) -> float:
        """Return how long the oldest running connect has been under way, in seconds."""
        return max((now - a.started for a in self.attempts if a.started), default=0.0)

    def _wake_one(self) -> list[Attempt]:
        now = monotonic()
        if now - self._woken_at < WAKE_INTERVAL:
            return []
        for attempt in self.attempts:
            if attempt.sleeping:
                self._wake(attempt)
                self._woken_at = now
                return [attempt]
        return []

    def _wake(self, attempt: Attempt) -> None:
        attempt.sleeping = False
        attempt.planned = monotonic()

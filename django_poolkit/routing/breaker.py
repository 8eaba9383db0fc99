"""A host's circuit: read while all is well, left alone when it is not, let back in by and by.

Knows no server, no thread and no clock but the one it is given. What may read it are all threads;
it is changed by one at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Final, Literal

Reason = Literal[
    "lag", "cut", "refuses", "broken", "not_a_replica", "not_a_primary", "timeline", "system"
]
"""Why a host is left alone: it is too far behind; nobody sends to it any more; it does not answer;
a connection to it has broken under a statement; it is a primary, or in a primary's place none; it
is on a history of the cluster that is over; it belongs to another cluster of servers."""
State = Literal["admitted", "evicted", "trial"]
"""Whether a host is read: as it should be, not at all, or by a share of the scopes that grows."""

GOOD_LOOKS: Final = 3
"""How often in a row an evicted host has to be found well, before anything is sent there."""
MOST_LOOKS: Final = 24
"""The same for a host that falls over again and again: twice as often each time, up to this."""
FIRST_SHARE: Final = 0.1
"""The part of the scopes that a trial begins with."""
RAMP: Final = 10.0
"""Seconds in which it grows to all of them."""
STEADY: Final = 60.0
"""Seconds that a host has to be admitted for, before its earlier falls are forgotten."""


@dataclass(frozen=True, slots=True)
class Change:
    """What became of a host."""

    before: State
    after: State
    reason: Reason | None
    """Why it is evicted, or was, where it is let in again."""


@dataclass(frozen=True, slots=True)
class _Now:
    """What a circuit is at one moment, so that a thread that reads never sees two of them."""

    state: State
    reason: Reason | None
    since: float


class Circuit:
    """Whether one host may be read."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._now = _Now("admitted", None, clock())
        self._good = 0
        self._doubts = 0
        self._needed = GOOD_LOOKS
        self._fell = False

    @property
    def state(self) -> State:
        """What it is at this moment."""
        return self._now.state

    @property
    def reason(self) -> Reason | None:
        """Why it is evicted, or on trial; None where it is admitted."""
        return self._now.reason

    @property
    def doubtful(self) -> bool:
        """Whether the next look says whether something is wrong."""
        return self._doubts > 0

    @property
    def recovers(self) -> bool:
        """Whether it was found well by the last look, and has to be so for longer."""
        return self._good > 0

    @property
    def share(self) -> float:
        """The part of the scopes that may read it, from 0.0 to 1.0."""
        return self._share(self._now)

    def now(self) -> tuple[State, Reason | None, float, float]:
        """Return its state, the reason, for how many seconds it has been so, and the share: all
        of one moment."""
        now = self._now
        return now.state, now.reason, max(0.0, self._clock() - now.since), self._share(now)

    def _share(self, now: _Now) -> float:
        if now.state == "admitted":
            return 1.0
        if now.state == "evicted":
            return 0.0
        part = max(0.0, self._clock() - now.since) / RAMP
        return min(1.0, FIRST_SHARE + (1.0 - FIRST_SHARE) * part)

    def good(self) -> Change | None:
        """Enter that it was found well. Returns what this changes, if anything."""
        self._doubts = 0
        if self.state == "evicted":
            self._good += 1
            if self._good >= self._needed:
                return self._become("trial", self.reason)
        elif self.state == "trial" and self.share >= 1.0:
            return self._become("admitted", None)
        return None

    def bad(self, reason: Reason) -> Change | None:
        """Enter that it must not be read. Returns what this changes, if anything."""
        self._doubts = self._good = 0
        if self.state == "evicted" and reason == self.reason:
            return None
        if self.state != "evicted":
            again = self.state == "trial" or self._clock() - self._now.since < STEADY
            # A host's first moments come after no fall.
            self._needed = min(MOST_LOOKS, 2 * self._needed) if again and self._fell else GOOD_LOOKS
            self._fell = True
        return self._become("evicted", reason)

    def doubt(self, reason: Reason) -> Change | None:
        """Enter that something is wrong which may be over in a moment: twice in a row is bad."""
        self._doubts += 1
        self._good = 0
        return self.bad(reason) if self._doubts >= 2 else None

    def _become(self, state: State, reason: Reason | None) -> Change:
        before = self._now
        self._now = _Now(state, reason, self._clock())
        self._good = 0
        told = before.reason if reason is None else reason
        return Change(before.state, state, told)

"""Growth against a model of it: waiters come and go, connects succeed and fail."""

from __future__ import annotations

from unittest import mock

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from django_poolkit.pools.postgres import growth
from django_poolkit.pools.postgres.growth import FIRST_PAUSE, JITTER, Attempt, Growth

WHICH = st.integers(0, 30)


class GrowthMachine(RuleBasedStateMachine):
    """Waiters come and go, connects succeed and fail: never more of them than there may be."""

    @initialize(workers=st.integers(1, 4), max_size=st.integers(1, 6), data=st.data())
    def begin(self, workers: int, max_size: int, data: st.DataObject) -> None:
        self.workers, self.max_size = workers, max_size
        self.min_size = data.draw(st.integers(0, max_size))
        self.cap = 2.0
        self.growth = Growth(workers=workers, cap=self.cap)
        self.waiters = 0
        self.connections = 0
        self.queue: list[Attempt] = []
        """Attempts that were handed to workers, and have not come to their turn."""
        self.running: list[Attempt] = []
        self.sleeping: list[Attempt] = []
        self.pauses: dict[Attempt, float] = {}
        self.now = 1000.0
        self.repeated: list[float] = []
        """When pauses came to their end."""
        self.clock = mock.patch.object(growth, "monotonic", self.clock_shows)
        self.clock.start()
        self.plan()

    def clock_shows(self) -> float:
        return self.now

    def teardown(self) -> None:
        self.clock.stop()

    @property
    def size(self) -> int:
        return self.connections + len(self.growth)

    def plan(self) -> None:
        """Plan as the pool does after each change."""
        lacking = self.growth.add(max(0, self.min_size - self.size))
        assert self.size >= self.min_size
        self.queue += lacking
        before = set(self.growth.attempts)
        if self.waiters:
            starts = self.growth.plan(waiters=self.waiters, room=self.max_size - self.size)
            new = [attempt for attempt in starts if attempt not in before]
            woken = [attempt for attempt in starts if attempt in before]
            assert not (new and woken)
            assert len(woken) <= 1
            assert all(attempt in self.sleeping for attempt in woken)
            if new:
                assert len(self.growth) <= min(self.waiters, self.workers)
            for attempt in woken:
                self.sleeping.remove(attempt)
            self.queue += starts

    @rule()
    def wait(self) -> None:
        self.waiters += 1
        self.plan()

    @precondition(lambda self: self.waiters)
    @rule()
    def give_up(self) -> None:
        self.waiters -= 1

    @precondition(lambda self: self.connections)
    @rule()
    def come_home(self) -> None:
        """A leased connection is released: the first waiter has it."""
        self.waiters = max(0, self.waiters - 1)

    @precondition(lambda self: self.connections)
    @rule()
    def lose(self) -> None:
        self.connections -= 1
        self.plan()

    @precondition(lambda self: self.queue)
    @rule(which=WHICH)
    def run(self, which: int) -> None:
        """A worker takes an attempt: it connects only if somebody still needs it."""
        attempt = self.queue.pop(which % len(self.queue))
        short = self.size <= self.min_size
        running = len(self.running)
        admitted = self.growth.admit(attempt, waiters=self.waiters, short=short)
        assert admitted == (short or self.waiters > running)
        assert (attempt in self.growth.attempts) == admitted
        if admitted:
            assert not self.growth.admit(attempt, waiters=99, short=True)  # one worker only
            self.running.append(attempt)

    @precondition(lambda self: self.running)
    @rule(which=WHICH)
    def succeed(self, which: int) -> None:
        attempt = self.running.pop(which % len(self.running))
        woken = self.growth.succeeded(attempt)
        assert set(woken) == set(self.sleeping)
        self.sleeping.clear()
        self.queue += woken
        self.connections += 1
        self.waiters = max(0, self.waiters - 1)
        self.plan()

    @precondition(lambda self: self.running)
    @rule(which=WHICH)
    def fail(self, which: int) -> None:
        attempt = self.running.pop(which % len(self.running))
        wanted = self.waiters > 0 or self.size <= self.min_size
        pause = self.growth.failed(attempt, wanted=wanted)
        if not wanted:
            assert pause is None
            assert attempt not in self.growth.attempts
            return
        self.check_pause(attempt, pause)
        self.sleeping.append(attempt)

    def check_pause(self, attempt: Attempt, pause: float | None) -> None:
        """Twice the last, from FIRST_PAUSE up to the cap, with the jitter around it."""
        assert pause is not None
        nominal = min(self.cap, self.pauses.get(attempt, FIRST_PAUSE / 2) * 2)
        assert nominal * (1 - JITTER) <= pause <= nominal * (1 + JITTER)
        self.pauses[attempt] = nominal

    @precondition(lambda self: self.sleeping)
    @rule(which=WHICH)
    def wake(self, which: int) -> None:
        attempt = self.sleeping.pop(which % len(self.sleeping))
        assert self.growth.due(attempt, attempt.nap - 1) is None  # the clock of an earlier pause
        lately = [at for at in self.repeated if self.now - at < self.pauses[attempt] * (1 - JITTER)]
        if len(lately) >= self.workers:
            self.check_pause(attempt, self.growth.due(attempt, attempt.nap))
            self.sleeping.append(attempt)
            return
        assert self.growth.due(attempt, attempt.nap) == 0.0
        assert self.growth.due(attempt, attempt.nap) is None
        self.repeated.append(self.now)
        self.queue.append(attempt)

    @rule(seconds=st.floats(0.05, 3.0))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def close(self) -> None:
        """All are struck out; what still runs finds itself unwanted."""
        struck = [*self.queue, *self.sleeping]
        self.growth.attempts.clear()
        for attempt in struck:
            assert self.growth.due(attempt, attempt.nap) is None
            assert not self.growth.admit(attempt, waiters=99, short=True)
        for attempt in self.running:
            assert self.growth.failed(attempt, wanted=True) is None
        self.queue.clear()
        self.sleeping.clear()
        self.running.clear()
        self.waiters = 0
        self.plan()

    @invariant()
    def stays_within_its_bounds(self) -> None:
        if not hasattr(self, "growth"):
            return
        growth = self.growth
        assert growth.attempts == {*self.queue, *self.running, *self.sleeping}
        assert len(growth) == len(self.queue) + len(self.running) + len(self.sleeping)
        assert self.size <= self.max_size
        assert len(growth) <= max(self.workers, self.min_size)
        assert bool(growth.pending(1e12)) == bool(self.running)

"""Queue, ledger and growth against models of them: no server, no threads, no clock of its own."""

from __future__ import annotations

import gc
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from django_poolkit.pools.errors import PoolTimeout
from django_poolkit.pools.lease import Lease
from django_poolkit.pools.ledger import Ledger
from django_poolkit.pools.postgres.growth import FIRST_PAUSE, JITTER, Attempt, Growth
from django_poolkit.pools.postgres.waiters import ThreadWaiter, Waiters

WHICH = st.integers(0, 30)


class FakeConnection:
    """Something to hand over."""


class FakePool:
    """The home of leases that are never missed, or are."""

    name = "model"
    statements: Any = None

    def __init__(self) -> None:
        self.lost_keys: list[int] = []

    def release(self, lease: Lease) -> None: ...
    def discard(self, lease: Lease) -> None: ...
    def lost(self, lease: Lease) -> None:
        self.lost_keys.append(lease.key)


class QueueMachine(RuleBasedStateMachine):
    """Waiters join at the end, or in front after a disappointment; they give up, fail, are served.

    The model is a list in the order in which they are to be served.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waiters = Waiters()
        self.model: list[ThreadWaiter] = []
        self.departed: list[ThreadWaiter] = []
        self.settled_in_queue: list[ThreadWaiter] = []
        self.handed_over: list[FakeConnection] = []

    def new(self) -> ThreadWaiter:
        return ThreadWaiter(Lease(FakePool(), 1, ()))

    @rule()
    def join(self) -> None:
        waiter = self.new()
        self.waiters.append(waiter)
        self.model.append(waiter)

    @rule()
    def join_in_front(self) -> None:
        waiter = self.new()
        self.waiters.append_first(waiter)
        self.model.insert(0, waiter)

    @precondition(lambda self: self.model)
    @rule(which=WHICH)
    def give_up(self, which: int) -> None:
        """Time out as `acquire()` does: leave the queue, then refuse whatever still comes."""
        waiter = self.model.pop(which % len(self.model))
        self.waiters.remove(waiter)
        assert waiter.fail(PoolTimeout()) is (waiter not in self.settled_in_queue)
        self.departed.append(waiter)

    @precondition(lambda self: self.departed)
    @rule(which=WHICH)
    def give_up_again(self, which: int) -> None:
        waiter = self.departed[which % len(self.departed)]
        self.waiters.remove(waiter)
        assert not waiter.set(FakeConnection())
        assert not waiter.fail(PoolTimeout())

    @precondition(lambda self: self.model)
    @rule(which=WHICH)
    def settle_behind_the_queue(self, which: int) -> None:
        """A waiter may be settled by others before it leaves: the hand-over is a handshake."""
        waiter = self.model[which % len(self.model)]
        if waiter.fail(PoolTimeout()):
            self.settled_in_queue.append(waiter)

    @rule()
    def serve(self) -> None:
        """Hand a connection to the first who accepts it, as `ConnectionPool` does."""
        connection = FakeConnection()
        accepted = False
        while self.waiters and not accepted:
            waiter = self.waiters.popleft()
            assert waiter is self.model.pop(0)
            assert isinstance(waiter, ThreadWaiter)
            accepted = waiter.set(connection)
            assert accepted is (waiter not in self.settled_in_queue)
            assert waiter._gate.acquire(timeout=0)  # either way its thread can go
            waiter._gate.release()
            self.departed.append(waiter)
        if accepted:
            self.handed_over.append(connection)

    @rule()
    def empty(self) -> None:
        assert self.waiters.take_all() == self.model
        for waiter in self.model:
            waiter.fail(PoolTimeout())
        self.departed += self.model
        self.model.clear()

    @invariant()
    def agrees(self) -> None:
        assert len(self.waiters) == len(self.model)
        assert list(self.waiters._queue) == self.model
        now = 1e9
        assert self.waiters.oldest(now) == (now - self.model[0].since if self.model else 0.0)
        given = [waiter.connection for waiter in self.departed if waiter.connection is not None]
        assert len(given) == len(set(given)) == len(self.handed_over)


class LedgerMachine(RuleBasedStateMachine):
    """Leases begin, end, turn out useless, are dropped; the ledger forgets none and counts all."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = FakePool()
        self.ledger = Ledger()
        self.now = 100.0
        self.live: list[Lease] = []
        self.ended: list[Lease] = []
        self.dropped: list[int] = []
        self.acquired = self.uses = 0
        self.seconds = 0.0

    @rule(seconds=st.floats(0.0, 50.0))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def lend(self) -> None:
        lease = Lease(self.pool, self.ledger.new_key(), ())
        connection = FakeConnection()
        self.ledger.lend_locked(lease, connection, self.now)
        assert lease.connection is connection
        self.live.append(lease)
        self.acquired += 1

    @precondition(lambda self: self.live)
    @rule(which=WHICH)
    def settle(self, which: int) -> None:
        lease = self.live.pop(which % len(self.live))
        assert self.ledger.settle_locked(lease, self.now)
        lease.released = True
        self.ended.append(lease)
        self.uses += 1
        self.seconds += self.now - lease.since

    @precondition(lambda self: self.ended)
    @rule(which=WHICH)
    def settle_again(self, which: int) -> None:
        assert not self.ledger.settle_locked(self.ended[which % len(self.ended)], self.now)

    @precondition(lambda self: self.live)
    @rule(which=WHICH)
    def disappoint(self, which: int) -> None:
        """What was lent is dead: the lease goes on, under another key, and gets another."""
        lease = self.live.pop(which % len(self.live))
        before = lease.key
        self.ledger.revoke_locked(lease)
        assert lease.connection is None
        assert lease.key != before
        self.ledger.lend_locked(lease, FakeConnection(), self.now)
        self.live.append(lease)

    @precondition(lambda self: self.live)
    @rule(which=WHICH)
    def drop(self, which: int) -> None:
        """A dropped lease reports itself once, and is counted as live until it is settled."""
        lease = self.live.pop(which % len(self.live))
        key = lease.key
        self.dropped.append(key)
        del lease
        gc.collect(0)
        assert self.pool.lost_keys == self.dropped

    @rule(after=st.floats(0.0, 60.0))
    def look_for_overdue(self, after: float) -> None:
        expected = [
            lease
            for lease in self.live
            if self.now - lease.since > after and lease.key not in self.ledger.reported
        ]
        assert self.ledger.overdue_locked(after, self.now) == expected
        assert self.ledger.overdue_locked(after, self.now) == []

    @invariant()
    def agrees(self) -> None:
        ledger = self.ledger
        assert len(ledger.live) == len(self.live) + len(self.dropped)
        assert ledger.leases_locked() == self.live
        assert ledger.acquired == self.acquired
        use = ledger.use.snapshot()
        assert use.count == self.uses
        assert use.sum == pytest.approx(self.seconds)
        oldest = max((self.now - lease.since for lease in self.live), default=0.0)
        assert ledger.oldest_locked(self.now) == oldest
        assert ledger.reported <= set(ledger.live)


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
        self.plan()

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
        assert pause is not None
        # Twice the last, from FIRST_PAUSE up to the cap, with the jitter around it.
        nominal = min(self.cap, self.pauses.get(attempt, FIRST_PAUSE / 2) * 2)
        assert nominal * (1 - JITTER) <= pause <= nominal * (1 + JITTER)
        self.pauses[attempt] = nominal
        self.sleeping.append(attempt)

    @precondition(lambda self: self.sleeping)
    @rule(which=WHICH)
    def wake(self, which: int) -> None:
        attempt = self.sleeping.pop(which % len(self.sleeping))
        assert self.growth.due(attempt)
        assert not self.growth.due(attempt)
        self.queue.append(attempt)

    @rule()
    def close(self) -> None:
        """All are struck out; what still runs finds itself unwanted."""
        struck = [*self.queue, *self.sleeping]
        self.growth.attempts.clear()
        for attempt in struck:
            assert not self.growth.due(attempt)
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


MACHINES = (QueueMachine, LedgerMachine, GrowthMachine)


def run(machine: type[RuleBasedStateMachine], examples: int, steps: int) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            deadline=None,
            max_examples=examples,
            stateful_step_count=steps,
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )


@pytest.mark.core
@pytest.mark.parametrize("machine", MACHINES)
def test_the_parts_do_what_their_models_say(machine):
    run(machine, examples=200, steps=40)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("machine", MACHINES)
def test_the_parts_do_what_their_models_say_at_length(machine):
    run(machine, examples=2000, steps=80)

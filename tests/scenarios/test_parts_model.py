"""Queue, ledger and growth against models of them: no server, no threads, no clock of its own."""

from __future__ import annotations

import gc
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
)

from django_poolkit.pools.errors import PoolTimeout
from django_poolkit.pools.lease import Lease
from django_poolkit.pools.ledger import Ledger
from django_poolkit.pools.postgres.waiters import ThreadWaiter, Waiters
from tests.scenarios.growth_model import WHICH, GrowthMachine
from tests.scenarios.machines import run_machine


class FakeConnection:
    """Something to hand over."""


class FakePool:
    """The home of leases that are never missed, or are."""

    name = "model"
    statements: Any = None
    greeting: object = None
    fenced = 0

    def __init__(self) -> None:
        self.lost_keys: list[int] = []

    def adrift(self, lease: Lease) -> None: ...
    def count_pin(self, reason: str) -> None: ...
    def release(self, lease: Lease) -> None: ...
    def rest(self, lease: Lease) -> bool:
        raise NotImplementedError

    def rouse(self, lease: Lease, depth: int, skip: int) -> bool:
        raise NotImplementedError

    def end_rest(self, lease: Lease) -> None: ...
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
        assert list(self.waiters.queue) == self.model
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
        lease.released, lease._connection = True, None
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


MACHINES = (QueueMachine, LedgerMachine, GrowthMachine)


@pytest.mark.parametrize("machine", MACHINES)
def test_the_parts_do_what_their_models_say(machine):
    run_machine(machine, examples=200, steps=40)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("machine", MACHINES)
def test_the_parts_do_what_their_models_say_at_length(machine):
    run_machine(machine, examples=2000, steps=80)

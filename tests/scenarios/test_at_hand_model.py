"""What lies at hand against a model of it: three threads, any order of steps, one at a time.

After each step every connection is in one place: leased, at hand, or idle. What is at hand is
looked at without the lock, since whoever enters the pool collects it.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from django_poolkit.pools.errors import LeaseReleased, PoolTimeout
from django_poolkit.pools.lease import Lease
from django_poolkit.pools.postgres import ConnectionPool, at_hand
from django_poolkit.testing import Node
from tests.scenarios.machines import run_machine

_names = itertools.count()
_ACTORS = 3
_STEPS = ("monotonic", "attributes", "getrefcount", "Lease", "ref")
ACTOR = st.integers(0, _ACTORS - 1)
WHICH = st.integers(0, 5)


class Actor:
    """A thread that does what it is told, one call at a time."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[Callable[[], Any] | None] = SimpleQueue()
        self._answers: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self.leases: list[Lease] = []

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                answer, error = call(), None
            except BaseException as raised:
                answer, error = None, raised.with_traceback(None)  # whose frames know leases
            del call
            self._answers.put((answer, error))
            del answer, error

    def do(self, call: Callable[[], Any]) -> Any:
        """Return what a call returns in this thread, or raise what it raises."""
        self._calls.put(call)
        answer, error = self._answers.get(timeout=30.0)
        if error is not None:
            raise error
        return answer

    def end(self) -> None:
        """End the thread, and wait for that."""
        self._calls.put(None)
        self._thread.join(30.0)


class AtHandMachine(RuleBasedStateMachine):
    """Three threads, one pool. `leases` of the actors is the truth about what is leased."""

    def __init__(self, primary: Node) -> None:
        super().__init__()
        self.primary = primary
        self.actors = [Actor() for _ in range(_ACTORS)]
        self.old: list[Lease] = []
        self.acquired = self.ended = 0

    @initialize(max_size=st.integers(2, 5))
    def open(self, max_size: int) -> None:
        name = f"at-hand-{next(_names)}"
        kwargs = {**self.primary.conninfo(), "application_name": name}
        self.pool = ConnectionPool(kwargs=kwargs, max_size=max_size, timeout=10.0, name=name)

    def teardown(self) -> None:
        """End the threads; everything must have come home."""
        for actor in self.actors:
            for lease in actor.leases:
                lease.release()
            actor.end()
        if hasattr(self, "pool"):
            stats = self.pool.stats()
            assert (stats.used, stats.leaks, stats.waiters) == (0, 0, 0)
            self.pool.close()

    @property
    def leased(self) -> list[Lease]:
        return [lease for actor in self.actors for lease in actor.leases]

    def _of_those_with(self, leases: int, who: int) -> Actor:
        found = [actor for actor in self.actors if len(actor.leases) >= leases]
        return found[who % len(found)]

    # -- what threads do

    def _acquire(self, actor: Actor) -> None:
        if len(self.leased) < self.pool.max_size:
            actor.leases.append(actor.do(self.pool.acquire))
            self.acquired += 1
        else:
            with pytest.raises(PoolTimeout):
                actor.do(lambda: self.pool.acquire(0))

    @rule(who=ACTOR, times=st.integers(1, 3))
    def acquire(self, who: int, times: int) -> None:
        for _ in range(times):
            self._acquire(self.actors[who])

    @precondition(lambda self: self.leased)
    @rule(who=ACTOR, by=ACTOR, which=WHICH, keeps=st.booleans(), runs=st.booleans())
    def release(self, who: int, by: int, which: int, keeps: bool, runs: bool) -> None:
        leases = self._of_those_with(1, who).leases
        lease = leases.pop(which % len(leases))
        if runs:
            assert lease.connection.execute("SELECT 1").fetchone() == (1,)
            lease.connection.commit()
        self.actors[by].do(lease.release)
        self.ended += 1
        if keeps:
            self.old.append(lease)

    @precondition(lambda self: self.old)
    @rule(by=ACTOR, which=WHICH)
    def release_again(self, by: int, which: int) -> None:
        with pytest.raises(LeaseReleased):
            self.actors[by].do(self.old[which % len(self.old)].release)

    @rule(who=ACTOR, step=st.sampled_from(_STEPS))
    def acquire_and_be_interrupted(self, who: int, step: str) -> None:
        def interrupt(*_: Any) -> Any:
            raise KeyboardInterrupt

        if len(self.leased) >= self.pool.max_size:
            return
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(at_hand, step, interrupt)
            try:
                lease = self.actors[who].do(self.pool.acquire)
            except KeyboardInterrupt:
                return
        self.actors[who].leases.append(lease)  # by a way that does not pass there
        self.acquired += 1

    @precondition(lambda self: any(len(actor.leases) > 1 for actor in self.actors))
    @rule(who=ACTOR, step=st.sampled_from(_STEPS[:2]))
    def release_and_have_a_finalizer_release(self, who: int, step: str) -> None:
        self._meanwhile(who, step, releases=True)

    @precondition(lambda self: any(len(actor.leases) > 1 for actor in self.actors))
    @rule(who=ACTOR, step=st.sampled_from(_STEPS))
    def acquire_and_have_a_finalizer_release(self, who: int, step: str) -> None:
        self._meanwhile(who, step, releases=False)

    def _meanwhile(self, who: int, step: str, *, releases: bool) -> None:
        actor = self._of_those_with(2, who)
        lost, real = [actor.leases.pop()], getattr(at_hand, step)

        def between(*args: Any) -> Any:
            if lost:
                self.ended += 1
                lost.pop().release()
            return real(*args)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(at_hand, step, between)
            if releases:
                actor.do(actor.leases.pop().release)
                self.ended += 1
            elif len(self.leased) + 1 < self.pool.max_size:
                self._acquire(actor)
        actor.leases += lost  # no step passed there

    @rule(who=ACTOR)
    def end_a_thread(self, who: int) -> None:
        if not self.actors[who].leases:
            self.actors[who].end()
            self.actors[who] = Actor()

    @rule()
    def let_time_pass(self) -> None:
        for connection in list(self.pool._at_hand.values()):
            connection._used_at -= self.pool.config.bypass + 1

    # -- what others do

    @rule(max_size=st.integers(1, 5))
    def resize(self, max_size: int) -> None:
        self.pool.resize(0, max_size)

    @rule()
    def recycle(self) -> None:
        self.pool.adopt_orphans()  # which a worker would do, at any time
        self.pool.recycle()

    @rule()
    def list_the_leases(self) -> None:
        assert len(self.pool.leases()) == len(self.leased)

    @rule()
    def count(self) -> None:
        self.pool.adopt_orphans()
        stats = self.pool.stats()
        assert stats.used == len(self.leased)
        assert (stats.acquired, stats.use.count) == (self.acquired, self.ended)
        assert stats.size == stats.idle + stats.used
        assert stats.connects - sum(stats.closed.values()) == stats.size

    @invariant()
    def each_connection_is_in_one_place(self) -> None:
        if not hasattr(self, "pool"):
            return
        pool = self.pool
        places = [lease.connection for lease in self.leased]
        places += [*pool._at_hand.values(), *pool._pool]
        places += [lease.held for lease, _ in pool._orphans]
        assert len(set(map(id, places))) == len(places)
        over = len(pool._at_hand) + len(pool._orphans)
        assert len(pool._ledger.live) == len(self.leased) + over
        for lease in self.leased:
            assert not lease.released
            assert lease.pool is pool
            assert lease.connection._lease_ref() is lease
        assert all(lease.connection is None for lease in self.old)


@pytest.fixture
def machine(primary: Node) -> type[AtHandMachine]:
    class Machine(AtHandMachine):
        def __init__(self) -> None:
            super().__init__(primary)

    return Machine


def test_each_connection_is_in_one_place_whatever_threads_do(machine: Any) -> None:
    run_machine(machine, examples=40, steps=50)

"""The pool against a model of it: the model, and how it acquires and gives back."""

from __future__ import annotations

import gc
import itertools
import sys
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from psycopg.pq import TransactionStatus

from django_poolkit.pools.errors import LeaseReleased, PoolClosed, PoolPaused, PoolTimeout
from django_poolkit.pools.lease import Lease
from django_poolkit.pools.postgres import ConnectionPool
from django_poolkit.testing import Node
from django_poolkit.testing.waiting import wait_until
from tests.scenarios.sessions import ATTRIBUTES, RESIDUES, UNTOUCHED, facts

_names = itertools.count()

# Long enough for a connect on a busy machine; nothing in here is meant to wait so long.
LONG = 5.0


class Held:
    """What the model knows of one lease, or of one connection that `getconn()` gave."""

    def __init__(self, owned: Lease | None, connection: Any) -> None:
        self.owned = owned
        self.raw: Any = connection if owned is None else None
        self.pid = connection.info.backend_pid
        self.cursor: Any = connection.cursor()
        self.stale = False
        """Whether it has to be closed as it comes home."""

    @property
    def connection(self) -> Any:
        return self.raw if self.owned is None else self.owned.connection


WHICH = st.integers(0, 5)


def pick(some: list[Held], which: int) -> Held:
    return some[which % len(some)]


class PoolModel(RuleBasedStateMachine):
    """Drives one pool after the other. `held` is the truth about what is leased."""

    def __init__(self, primary: Node, admin: psycopg.Connection[Any]) -> None:
        super().__init__()
        self.primary = primary
        self.admin = admin
        self.all_held: list[Held] = []
        self.all_gone: list[Held] = []
        self.killed: set[int] = set()
        self.leaks = 0
        self.paused = False
        # The life of the leaked is a matter of references, and old traces must not hold any.
        gc.collect()

    # -- the pool under test

    @initialize(min_size=st.integers(0, 2), more=st.integers(1, 3))
    def open(self, min_size: int, more: int) -> None:
        self.name = f"model-{next(_names)}"
        self.min_size, self.max_size = min_size, min_size + more
        self.pool = ConnectionPool(
            kwargs={
                **self.primary.conninfo(),
                "application_name": self.name,
            },
            min_size=self.min_size,
            max_size=self.max_size,
            timeout=LONG,
        )
        self.paused = False
        self.leaks = 0
        self.killed.clear()
        self.all_gone.clear()

    def teardown(self) -> None:
        if not hasattr(self, "pool"):
            return
        if sys.exception() is not None:  # a step has failed: no more is promised
            self.pool.close()
            for held in self.all_held:
                with suppress(Exception):
                    self.give_back(held)
            return
        self.close_pool()

    def close_pool(self) -> None:
        self.pool.close()
        for held in list(self.all_held):
            connection = held.connection
            self.end(held)
            self.give_back(held)
            assert connection.closed
        wait_until(lambda: not self.server_pids(), LONG)
        stats = self.pool.stats()
        assert (stats.size, stats.idle, stats.used, stats.waiters) == (0, 0, 0, 0)

    @rule(min_size=st.integers(0, 2), more=st.integers(1, 3))
    def replace(self, min_size: int, more: int) -> None:
        """Close the pool under its users; they go home, and a new pool begins."""
        closed = self.pool
        self.close_pool()
        with pytest.raises(PoolClosed):
            closed.acquire()
        self.open(min_size, more)

    # -- what is seen of it

    def server_pids(self) -> set[int]:
        rows = self.admin.execute(
            "SELECT pid FROM pg_stat_activity WHERE application_name = %s", (self.name,)
        )
        return {pid for (pid,) in rows}

    def idle_pids(self) -> list[int]:
        """Return what is idle, in the order in which it is to be given out."""
        return [connection.info.backend_pid for connection in reversed(self.pool._pool)]

    @property
    def held_pids(self) -> set[int]:
        return {held.pid for held in self.all_held}

    @property
    def may_grow(self) -> bool:
        return not self.paused and len(self.all_held) < self.max_size

    @invariant()
    def agrees(self) -> None:
        """At a quiet point: the sum holds, the bounds hold, and the server says the same."""
        if not hasattr(self, "pool"):
            return
        stats = wait_until(self.quiet_stats, LONG, lambda: repr(self.pool.stats()))
        used = len(self.all_held)
        assert stats.used == used
        assert stats.size == stats.idle + used
        assert stats.size <= max(self.max_size, used)
        assert stats.waiters == 0
        assert stats.leaks == self.leaks
        if self.paused:
            assert stats.idle == 0
        elif self.pool._opened:
            assert stats.size >= self.min_size
        idle = self.idle_pids()
        assert len(set(idle)) == len(idle) == stats.idle
        assert not set(idle) & self.held_pids
        assert len(self.held_pids) == used
        expected = (set(idle) | self.held_pids) - self.killed
        wait_until(
            lambda: self.server_pids() == expected,
            LONG,
            lambda: f"the server has {self.server_pids()}, the pool {expected}",
        )

    def quiet_stats(self) -> Any:
        stats = self.pool.stats()
        return stats if not stats.connecting else None

    # -- acquire

    def take(self, owned: Lease | None, connection: Any) -> Held:
        held = Held(owned, connection)
        assert connection.pgconn.transaction_status == TransactionStatus.IDLE
        assert held.pid not in self.killed
        assert held.pid not in self.held_pids
        assert facts(connection) == UNTOUCHED
        for name, (_, new) in ATTRIBUTES.items():
            assert getattr(connection, name) == new, name
        assert connection._notice_handlers == connection._notify_handlers == []
        self.all_held.append(held)
        return held

    @rule()
    def acquire_at_once(self) -> None:
        """With no time to wait, success depends on the idle ones alone."""
        idle = self.idle_pids()
        alive = [pid for pid in idle if pid not in self.killed]
        if alive and not self.paused:
            lease = self.pool.acquire(timeout=0)
            held = self.take(lease, lease.connection)
            assert held.pid == alive[0]  # last in, first out
            return
        # It opens the pool and puts out the dead; a worker may have replaced them before it looks.
        lucky = self.min_size > 0 and not self.paused and (idle or not self.pool._opened)
        if lucky:
            with suppress(PoolTimeout):
                lease = self.pool.acquire(timeout=0)
                assert self.take(lease, lease.connection).pid not in idle
            return
        with pytest.raises(PoolPaused if self.paused else PoolTimeout) as refusal:
            self.pool.acquire(timeout=0)
        assert refusal.value.stats is not None
        assert refusal.value.stats.used == len(self.all_held)

    @precondition(lambda self: self.may_grow)
    @rule()
    def acquire(self) -> None:
        lease = self.pool.acquire()
        self.take(lease, lease.connection)

    @precondition(lambda self: self.may_grow)
    @rule()
    def getconn(self) -> None:
        self.take(None, self.pool.getconn())

    @precondition(lambda self: self.may_grow)
    @rule(
        residues=st.lists(st.sampled_from(sorted(RESIDUES)), min_size=1, max_size=4, unique=True),
        committed=st.booleans(),
    )
    def visit(self, residues: list[str], committed: bool) -> None:
        """One after the other on the same connection: the second sees nothing of the first."""
        for _ in range(2):
            lease = self.pool.acquire()
            held = self.take(lease, lease.connection)
            for residue in residues:
                RESIDUES[residue](held.connection)
                if committed:
                    held.connection.commit()
            self.end(held)
            self.give_back(held)

    @precondition(lambda self: not self.paused and len(self.all_held) >= self.max_size)
    @rule()
    def acquire_from_an_exhausted_pool(self) -> None:
        with pytest.raises(PoolTimeout):
            self.pool.acquire(timeout=0.01)

    # -- release

    def end(self, held: Held) -> None:
        self.all_held.remove(held)
        self.all_gone.append(held)

    @precondition(lambda self: self.all_held)
    @rule(which=WHICH)
    def release(self, which: int) -> None:
        held = pick(self.all_held, which)
        self.end(held)
        self.give_back(held)
        if held.stale:
            assert held.pid not in self.idle_pids()

    def give_back(self, held: Held) -> None:
        if held.owned is not None:
            held.owned.release()
            return
        self.pool.putconn(held.raw)
        # Only now, since to the pool this object is whoever acquires it next.
        with pytest.raises(ValueError, match="return connection"):
            self.pool.putconn(held.raw)
        held.raw = None

    @precondition(lambda self: self.all_held)
    @rule(which=WHICH)
    def discard(self, which: int) -> None:
        held = pick(self.all_held, which)
        self.end(held)
        if held.owned is not None:
            held.owned.discard()
        else:
            held.raw.close()
            self.give_back(held)
        assert held.pid not in self.idle_pids()

    @precondition(lambda self: self.all_held)
    @rule(which=WHICH)
    def drop(self, which: int) -> None:
        """Forget it without a word. The next who passes takes it back.

        That may be a worker: in a pause, one comes by itself.
        """
        held = pick(self.all_held, which)
        self.end(held)
        self.leaks += 1
        for other in self.all_gone:
            if other.pid == held.pid:
                other.cursor = None  # it, too, holds the connection
        held.owned = held.raw = None
        gc.collect()
        self.pool.keep_house()
        # Counted once it is home. A worker that was faster may still be on its way there.
        wait_until(
            lambda: self.pool.stats().leaks >= self.leaks, LONG, lambda: repr(self.pool.stats())
        )

    @precondition(lambda self: self.all_gone)
    @rule(which=WHICH)
    def release_again(self, which: int) -> None:
        held = pick(self.all_gone, which)
        if held.owned is not None:
            with pytest.raises(LeaseReleased):
                held.owned.release()
            with pytest.raises(LeaseReleased):
                held.owned.discard()

    @precondition(lambda self: self.all_gone)
    @rule(which=WHICH)
    def use_a_stale_cursor(self, which: int) -> None:
        held = pick(self.all_gone, which)
        if held.cursor is not None:
            # psycopg looks for its socket before anything else.
            closed = psycopg.OperationalError if held.cursor.connection.closed else LeaseReleased
            with pytest.raises((LeaseReleased, closed)):
                held.cursor.execute("SELECT 1")
            with pytest.raises(LeaseReleased):
                held.cursor.fetchone()

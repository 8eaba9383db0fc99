"""The pool against a model of it: any verbs, in any order, on a real server.

After every step the pool must agree with the model and with the server, and whatever is
acquired must be as good as new.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from django_poolkit.testing import Node
from django_poolkit.testing.waiting import wait_until
from tests.scenarios.machines import run_machine
from tests.scenarios.pool_model import LONG, WHICH, Held, PoolModel, pick
from tests.scenarios.sessions import ATTRIBUTES, RESIDUES

# A residue may be left twice under one lease.
_DUPLICATES = (
    psycopg.errors.DuplicateTable,
    psycopg.errors.DuplicatePreparedStatement,
    psycopg.errors.DuplicateCursor,
)


class PoolMachine(PoolModel):
    """What users and operators do to the pool, and what befalls it."""

    # -- use

    @precondition(lambda self: self.all_held)
    @rule(which=WHICH)
    def commit_some_work(self, which: int) -> None:
        held = pick(self.all_held, which)
        self.use(held, lambda c: (c.rollback(), c.execute("SELECT 1"), c.commit()))

    @precondition(lambda self: self.all_held)
    @rule(which=WHICH, residue=st.sampled_from(sorted(RESIDUES)), committed=st.booleans())
    def leave_residue(self, which: int, residue: str, committed: bool) -> None:
        held = pick(self.all_held, which)

        def spoil(connection: Any) -> None:
            connection.rollback()
            RESIDUES[residue](connection)
            if committed:
                connection.commit()

        self.use(held, spoil)

    @precondition(lambda self: self.all_held)
    @rule(which=WHICH)
    def leave_a_held_cursor(self, which: int) -> None:
        held = pick(self.all_held, which)

        def declare(connection: Any) -> None:
            connection.rollback()
            cursor = connection.cursor("residue", withhold=True)
            cursor.execute("SELECT generate_series(1, 10)")
            cursor.fetchone()
            connection.commit()

        self.use(held, declare)

    @precondition(lambda self: self.all_held)
    @rule(which=WHICH, name=st.sampled_from(sorted(ATTRIBUTES)))
    def leave_an_attribute(self, which: int, name: str) -> None:
        held = pick(self.all_held, which)

        def change(connection: Any) -> None:
            connection.rollback()
            setattr(connection, name, ATTRIBUTES[name][0])
            connection.execute("SELECT 1")
            connection.rollback()

        self.use(held, change)

    @precondition(lambda self: self.all_held)
    @rule(which=WHICH)
    def leave_handlers(self, which: int) -> None:
        held = pick(self.all_held, which)
        held.connection.add_notice_handler(print)
        held.connection.add_notify_handler(print)

    @precondition(lambda self: self.all_held)
    @rule(which=WHICH)
    def leave_a_transaction(self, which: int) -> None:
        held = pick(self.all_held, which)
        self.use(held, lambda c: (c.rollback(), c.execute("SELECT 1")))

    @precondition(lambda self: self.all_held)
    @rule(which=WHICH)
    def leave_a_failed_transaction(self, which: int) -> None:
        held = pick(self.all_held, which)
        with pytest.raises(psycopg.Error):
            held.connection.execute("SELECT 1/0")

    def use(self, held: Held, work: Any) -> None:
        """Do something that fails just where the model says that the backend is gone."""
        if held.pid in self.killed:
            with pytest.raises(psycopg.OperationalError):
                work(held.connection)
        else:
            try:
                work(held.connection)
            except _DUPLICATES:
                held.connection.rollback()
            except psycopg.errors.ReadOnlySqlTransaction:
                assert held.connection.read_only  # of this lease's own making
                held.connection.rollback()

    # -- trouble

    @rule(data=st.data())
    def kill_an_idle_backend(self, data: st.DataObject) -> None:
        alive = [pid for pid in self.idle_pids() if pid not in self.killed]
        if alive:
            self.kill(data.draw(st.sampled_from(sorted(alive))))

    @rule()
    def kill_all_idle_backends(self) -> None:
        for pid in set(self.idle_pids()) - self.killed:
            self.kill(pid)

    @precondition(lambda self: self.all_held)
    @rule(which=WHICH)
    def kill_a_leased_backend(self, which: int) -> None:
        held = pick(self.all_held, which)
        if held.pid not in self.killed:
            self.kill(held.pid)

    def kill(self, pid: int) -> None:
        self.admin.execute("SELECT pg_terminate_backend(%s, 10000)", (pid,))
        self.killed.add(pid)

    # -- steering

    @rule()
    def recycle(self) -> None:
        before = set(self.idle_pids())
        self.pool.recycle()
        for held in self.all_held:
            held.stale = True
        assert not before & set(self.idle_pids())

    @rule(min_size=st.integers(0, 2), more=st.integers(1, 3))
    def resize(self, min_size: int, more: int) -> None:
        self.min_size, self.max_size = min_size, min_size + more
        self.pool.resize(self.min_size, self.max_size)

    @rule()
    def pause(self) -> None:
        self.pool.pause(600)
        self.paused = True
        for held in self.all_held:
            held.stale = True
        assert self.pool.stats().state == "paused"

    @rule()
    def resume(self) -> None:
        self.pool.resume()
        self.paused = False

    @precondition(lambda self: self.pool._opened)
    @rule()
    def keep_house(self) -> None:
        self.pool.keep_house()
        assert not set(self.idle_pids()) & self.killed

    @rule()
    def check(self) -> None:
        self.pool.check()
        assert not set(self.idle_pids()) & self.killed


@pytest.fixture
def admin(primary: Node) -> Iterator[psycopg.Connection[Any]]:
    with primary.connect(application_name="model-admin") as connection:
        yield connection


def run(primary: Node, admin: psycopg.Connection[Any], examples: int, steps: int) -> None:
    class Machine(PoolMachine):
        def __init__(self) -> None:
            super().__init__(primary, admin)

    run_machine(Machine, examples, steps)


pytestmark = [
    # psycopg warns of a named cursor that dies with its connection.
    pytest.mark.filterwarnings("ignore:.*Cursor.*was deleted:ResourceWarning"),
    # Said by whoever takes a lost lease back, at any time and in any thread.
    pytest.mark.filterwarnings(
        "ignore:.*a lease was dropped:django_poolkit.pools.errors.PoolWarning"
    ),
]


def test_the_model_waits_for_the_worker_that_takes_a_lost_lease_back(primary, admin, monkeypatch):
    machine = PoolMachine(primary, admin)
    machine.open(min_size=0, more=1)
    machine.acquire()
    machine.pause()
    pool, me = machine.pool, threading.get_ident()
    taken, seen = threading.Event(), threading.Event()
    adopt, keep_house, stats = pool._adopt, pool.keep_house, pool.stats

    def adopt_late(lease: Any, cause: Any) -> None:
        assert threading.get_ident() != me
        taken.set()
        assert seen.wait(LONG)
        adopt(lease, cause)

    def keep_house_once_taken() -> None:
        assert taken.wait(LONG)
        keep_house()

    def see() -> Any:
        found = stats()
        seen.set()
        return found

    monkeypatch.setattr(pool, "_adopt", adopt_late)
    monkeypatch.setattr(pool, "keep_house", keep_house_once_taken)
    monkeypatch.setattr(pool, "stats", see)
    machine.drop(which=0)
    machine.agrees()
    machine.close_pool()


def test_the_model_allows_for_a_worker_that_replaces_the_dead_at_once(primary, admin, monkeypatch):
    machine = PoolMachine(primary, admin)
    machine.open(min_size=1, more=1)
    machine.acquire()
    machine.release(which=0)
    machine.agrees()
    machine.kill_all_idle_backends()
    pool = machine.pool
    start = pool._start

    def start_and_wait(attempts: Any) -> None:
        start(attempts)
        if attempts:
            wait_until(lambda: pool._pool, LONG)

    monkeypatch.setattr(pool, "_start", start_and_wait)
    machine.acquire_at_once()
    monkeypatch.undo()
    assert len(machine.all_held) == 1
    machine.agrees()
    machine.close_pool()


def test_the_model_allows_for_a_connection_that_was_made_read_only(primary, admin):
    machine = PoolMachine(primary, admin)
    machine.open(min_size=0, more=1)
    machine.acquire()
    machine.leave_an_attribute(which=0, name="read_only")
    machine.leave_residue(which=0, residue="temp_table", committed=True)
    machine.agrees()
    machine.release(which=0)
    machine.acquire()
    machine.leave_residue(which=0, residue="temp_table", committed=True)
    machine.close_pool()


def test_the_pool_does_what_the_model_says(primary, admin):
    run(primary, admin, examples=40, steps=30)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_pool_does_what_the_model_says_at_length(primary, admin):
    run(primary, admin, examples=500, steps=60)

"""The shares of a pool against a model of them: who may have a connection, who waits, and where."""

from __future__ import annotations

import ctypes
import gc
import math
import sys
from collections import Counter
from contextlib import nullcontext, suppress
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from django_poolkit import share
from django_poolkit.pools.errors import PoolClosed, PoolPaused, PoolTimeout, TooManyWaiters
from django_poolkit.pools.lease import Lease
from django_poolkit.pools.postgres import ConnectionPool
from django_poolkit.pools.postgres.waiters import ThreadWaiter
from django_poolkit.pools.stats import ShareStats
from django_poolkit.testing import Node
from django_poolkit.testing.waiting import wait_until
from tests.pools.support import Call, unique
from tests.scenarios.pool_model import LONG, WHICH

# Nobody waits so long: who is not served at once, is not served.
FOR_EVER = 600.0
PARTS = st.sampled_from(["0.1", "0.3", "0.3", "0.5", "1"])
SIZES = st.sampled_from([1, 3, 4, 5, 6])
MAX_WAITING = st.sampled_from([0, 0, 2])
KINDS = st.sampled_from(["reports", "reports", "mails", None, None])
# Mostly what users do, so that all states of a pool and its queue are come through.
WHAT = [
    *["acquire"] * 9, *["release"] * 8, *["at once"] * 3, *["give up", "interrupt"] * 2,
    *["discard", "break", "drop"], *["resume"] * 5, "pause", *["resize"] * 2, "recycle", "kill",
]  # fmt: skip


class Watched(ConnectionPool):
    """Looks, each time that one is lent under the lock, whether it may be."""

    over: list[str]

    def _lend_locked(self, lease: Lease, connection: Any, now: float) -> None:
        super()._lend_locked(lease, connection, now)
        held = Counter(each.share for each in self._ledger.leases_locked())
        assert self._shares is not None
        if lease.share and held[lease.share] > self._shares.limit(lease.share, self._max_size):
            self.over.append(f"{lease.share} has {held[lease.share]} of {self._max_size}")
        if sum(held.values()) > self._max_size:
            self.over.append(f"{sum(held.values())} are leased of {self._max_size}")


def acquire_as(pool: ConnectionPool, kind: str | None, timeout: float) -> Lease:
    """Acquire for one kind of work."""
    with nullcontext() if kind is None else share(kind):
        return pool.acquire(timeout)


class SharesModel(RuleBasedStateMachine):
    """Drives one pool after the other.

    `held` and `queue` are the truth about who has one and who waits; `settle()` says who is next.
    """

    def __init__(self, primary: Node) -> None:
        super().__init__()
        self.primary = primary
        self.held: list[tuple[str | None, Lease]] = []
        self.queue: list[tuple[str | None, Call]] = []
        self.parts: dict[str, str] = {}
        self.dead: set[Any] = set()
        self.max_size = self.max_waiting = self.min_size = self.leaks = 0
        self.paused = False
        gc.collect()

    @initialize(
        reports=PARTS, mails=PARTS, size=SIZES, min_size=st.integers(0, 1), max_waiting=MAX_WAITING
    )
    def open(self, reports: str, mails: str, size: int, min_size: int, max_waiting: int) -> None:
        self.parts = {"reports": reports, "mails": mails}
        self.min_size, self.max_size, self.max_waiting = min_size, size, max_waiting
        self.name, self.paused, self.leaks = unique("shares"), False, 0
        self.dead = set()
        self.pool = Watched(
            kwargs={**self.primary.conninfo(), "application_name": self.name},
            min_size=min_size,
            max_size=size,
            max_waiting=max_waiting,
            timeout=FOR_EVER,
            shares={name: float(part) for name, part in self.parts.items()},
        )
        self.pool.over = []
        self.pool.open(wait=True, timeout=LONG)

    # -- the model

    def limit(self, kind: str) -> int:
        return max(1, math.ceil(Fraction(self.parts[kind]) * self.max_size))

    def free(self, kind: str) -> int:
        return self.limit(kind) - sum(other == kind for other, _ in self.held)

    def may(self, kind: str | None) -> bool:
        return kind is None or self.free(kind) > 0

    def count(self, kind: str | None) -> int:
        return sum(other == kind for other, _ in self.queue)

    @property
    def crowd(self) -> dict[str | None, int]:
        """How many are before a newcomer of each kind."""
        wanting = self.count(None) + sum(
            max(0, min(self.count(kind), self.free(kind))) for kind in self.parts
        )
        return {k: wanting if self.may(k) else self.count(k) for k in (None, *self.parts)}

    def settle(self) -> int:
        """Serve the first that may, until nobody may; the pool must have done the same."""
        served = 0
        while not self.paused and len(self.held) < self.max_size:
            found = next((one for one in self.queue if self.may(one[0])), None)
            if found is None:
                break
            kind, call = found
            try:
                lease = call.result(LONG)
            except AssertionError:
                raise AssertionError(f"{kind} starves: {self.pool.stats()}") from None
            call._answer = None
            self.queue.remove(found)
            self.held.append((kind, lease))
            served += 1
        wait_until(self.is_quiet, LONG, lambda: f"{self.pool.stats()}, model {len(self.queue)}")
        self.dead.intersection_update(self.pool._pool)
        return served

    def is_quiet(self) -> bool:
        stats = self.pool.stats()
        return not stats.connecting and stats.waiters == len(self.queue)

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "pool"):
            return
        stats = self.pool.stats()
        assert self.pool.over == []
        assert stats.size == stats.idle + stats.used + stats.connecting
        assert stats.used == len(self.held)
        assert stats.size <= max(self.max_size, len(self.held))
        assert stats.size >= self.min_size or self.paused
        assert stats.connects - sum(stats.closed.values()) == stats.idle + stats.used
        assert stats.leaks == self.leaks
        assert stats.waiters == len(self.queue)
        assert all(call.is_alive() for _, call in self.queue)
        for kind in self.parts:
            used = self.limit(kind) - self.free(kind)
            assert stats.shares[kind] == ShareStats(
                used=used, max_used=self.limit(kind), waiters=self.count(kind)
            )
        waiting = [w.lease._thread for w in self.pool._waiting.queue]
        assert waiting == [call for _, call in self.queue]  # first come, first served
        pids = {lease.connection.info.backend_pid for _, lease in self.held}
        assert len(pids) == len(self.held)

    @rule(what=st.sampled_from(WHAT), kind=KINDS, which=WHICH, size=SIZES)
    def step(self, what: str, kind: str | None, which: int, size: int) -> None:
        """Take a step. One rule, since which is taken how often decides what is met."""
        match what:
            case "acquire" if len(self.queue) < 8:
                self.acquire(kind)
            case "at once" if not self.dead:
                self.acquire_at_once(kind)
            case "give up":
                self.give_up(kind)
            case "interrupt" if self.queue:
                self.interrupt(which)
            case "release" if self.held:
                self.release(which)
            case "discard" | "break" | "drop" if self.held:
                self.end_badly(which, what)
            case "pause" if not self.paused:
                self.pause()
            case "resume" if self.paused:
                self.resume()
            case "resize":
                self.resize(size)
            case "recycle":
                self.pool.recycle()
                self.settle()
            case "kill" if not self.queue:  # who finds a dead one queues again, and not in order
                self.kill_what_is_idle()

    @precondition(lambda self: self.pool.stats().acquired > 20)
    @rule(reports=PARTS, mails=PARTS, size=SIZES, max_waiting=MAX_WAITING)
    def replace(self, reports: str, mails: str, size: int, max_waiting: int) -> None:
        """Close it under its users; who waits is told so."""
        self.close()
        self.open(reports, mails, size, self.min_size, max_waiting)

    # -- who comes

    def acquire(self, kind: str | None) -> None:
        waits = self.paused or len(self.held) >= self.max_size or not self.may(kind)
        if waits and self.max_waiting and self.crowd[kind] >= self.max_waiting:
            with pytest.raises(TooManyWaiters):
                acquire_as(self.pool, kind, FOR_EVER)
            return
        self.queue.append((kind, Call(acquire_as, self.pool, kind, FOR_EVER)))
        self.settle()

    def acquire_at_once(self, kind: str | None) -> None:
        if self.pool._pool and not self.paused and self.may(kind):
            self.held.append((kind, acquire_as(self.pool, kind, 0)))
            return
        self.refuse(kind, 0)

    def give_up(self, kind: str | None) -> None:
        """Wait for a moment behind the others, then leave from the end of the queue."""
        waits = self.paused or len(self.held) >= self.max_size or not self.may(kind)
        if waits and not (self.max_waiting and self.crowd[kind] >= self.max_waiting):
            self.refuse(kind, 0.005)

    def refuse(self, kind: str | None, timeout: float) -> None:
        with pytest.raises(PoolPaused if self.paused else PoolTimeout) as refusal:
            acquire_as(self.pool, kind, timeout)
        if isinstance(refusal.value, PoolTimeout):
            assert refusal.value.share == (None if self.may(kind) else kind)
        assert refusal.value.stats is not None
        assert refusal.value.stats.used == len(self.held)

    def interrupt(self, which: int) -> None:
        """Cancel one, wherever in the queue it is."""
        _, call = self.queue.pop(which % len(self.queue))
        [waiter] = [w for w in self.pool._waiting.queue if w.lease._thread is call]
        assert isinstance(waiter, ThreadWaiter)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(call.ident or 0), ctypes.py_object(KeyboardInterrupt)
        )
        waiter._gate.release()  # it sleeps, and would not hear it
        with pytest.raises(KeyboardInterrupt):
            call.result(LONG)
        self.settle()

    # -- who goes

    def take(self, which: int) -> Lease:
        return self.held.pop(which % len(self.held))[1]

    def release(self, which: int) -> None:
        self.take(which).release()
        self.settle()

    def end_badly(self, which: int, how: str) -> None:
        """Nothing comes home; its part of the share is free all the same, for what is idle."""
        before = self.pool.stats()
        lease = self.take(which)
        if how == "discard":
            lease.discard()
        elif how == "break":
            lease.connection.close()
            lease.release()
        del lease
        if how == "drop":  # whoever passes takes it back
            self.leaks += 1
            gc.collect()
            self.pool.keep_house()
            wait_until(lambda: self.pool.stats().leaks == self.leaks, LONG)
        if 0 < self.settle() <= before.idle and not self.dead:
            assert self.pool.stats().connects == before.connects

    # -- what befalls all

    def pause(self) -> None:
        self.pool.pause(FOR_EVER)
        self.paused = True
        self.settle()

    def resume(self) -> None:
        self.paused = False
        self.pool.resume()
        self.settle()

    def resize(self, size: int) -> None:
        self.max_size = size
        self.pool.resize(self.min_size, size)
        self.settle()

    def kill_what_is_idle(self) -> None:
        self.dead = set(self.pool._pool)
        for connection in self.dead:
            self.primary.kill_backend(connection.info.backend_pid)

    # -- ends

    def close(self) -> None:
        self.pool.close()
        for _, call in self.queue:
            with pytest.raises(PoolClosed):
                call.result(LONG)
        self.queue.clear()
        while self.held:
            self.take(0).release()
        stats = self.pool.stats()
        assert (stats.size, stats.idle, stats.used, stats.waiters) == (0, 0, 0, 0)
        assert {found.used for found in stats.shares.values()} == {0}

    def teardown(self) -> None:
        if not hasattr(self, "pool"):
            return
        if sys.exception() is not None:  # a step has failed: no more is promised
            self.pool.close()
            while self.held:
                with suppress(Exception):
                    self.take(0).release()
            return
        # Nobody starves: as soon as all give back, all are served.
        if self.paused:
            self.resume()
        while self.queue:
            self.release(0)
            self.agrees()
        self.close()

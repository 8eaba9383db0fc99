"""Many processes, each with a pool of its own, on one server that has not enough for all of them.

A simulation of what no pool can see for itself: connections are opened when they are needed, kept
for `max_idle`, and refused when the server has no more, while another process has idle ones.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from heapq import heappop, heappush, merge
from typing import Final

from django_poolkit.pools.queueing import Load, streams

_SEED: Final = 19170101


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Processes of one kind."""

    processes: int
    size: int
    """`max_size` of the pool of each of them."""
    load: Load | None = None
    """What is asked of one of them, on average; None where that is not known, or nothing."""

    @property
    def total(self) -> Load | None:
        """What is asked of all of them."""
        if self.load is None:
            return None
        return replace(self.load.times(self.processes), held=self.load.held * self.processes)


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetPrediction:
    """What such processes would do to each other. Durations are seconds."""

    processes: int
    connections: int
    """So many were open at once, at most."""
    without: int
    """Processes that were asked for connections, and never had one."""
    acquires: int
    p50: float
    p99: float
    """Of the waits of all; who gives up has waited for as long as that took."""
    timeouts: float
    """Share of acquires that wait in vain."""


def simulate_fleet(
    parts: Sequence[Part],
    slots: int,
    *,
    timeout: float,
    max_idle: float = 600.0,
    connect: float = 0.01,
) -> FleetPrediction:
    """Predict what happens if these processes share a server that gives them `slots` connections.

    All begin with none. A `connect` takes as long as that, and one that was refused is made as
    soon as the server has one again, which is better than it can be. Callers meet each of
    the processes of their kind with equal chance. Takes some tenths of a second.
    """
    loaded = [part for part in parts if part.load is not None]
    chance = random.Random(_SEED)
    fleet = _Fleet(slots, timeout, max_idle, connect)
    offsets = []
    for part in loaded:
        offsets.append(len(fleet.workers))
        fleet.workers += [_Worker(part.size) for _ in range(part.processes)]
    made = streams([load for part in loaded if (load := part.total) is not None])
    tagged = [
        [(at, use, offset + chance.randrange(part.processes)) for at, use in stream]
        for stream, offset, part in zip(made, offsets, loaded, strict=True)
    ]
    acquires = sum(map(len, made))
    for at, use, number in merge(*tagged):
        fleet.until(at)
        fleet.ask(at, use, number)
    fleet.until(fleet.now + timeout)  # until each has got one, or has given up
    return fleet.conclude(acquires, sum(part.processes for part in parts))


class _Worker:
    """One process: its connections, and who waits for them."""

    __slots__ = ("asked", "connecting", "had", "idle", "opened", "size", "waiting")

    def __init__(self, size: int) -> None:
        self.size = size
        self.opened = self.connecting = 0
        self.asked = self.had = False
        self.idle: deque[float] = deque()  # since when, the longest idle first
        self.waiting: deque[tuple[float, float]] = deque()


class _Fleet:
    """All of them. Its events are what a connection does: it comes home, is open, was idle."""

    def __init__(self, slots: int, timeout: float, max_idle: float, connect: float) -> None:
        self.left, self.timeout, self.max_idle, self.connect = slots, timeout, max_idle, connect
        self.opened = self.most = 0
        self.workers: list[_Worker] = []
        self.waits: list[float] = []
        self.in_vain = 0
        self.refused: deque[_Worker] = deque()
        self.now = 0.0
        # The number keeps the order of what happens at one time.
        self.events: list[tuple[float, int, str, _Worker]] = []
        self._number = 0

    def ask(self, at: float, use: float, number: int) -> None:
        self.now, worker = at, self.workers[number]
        worker.asked = True
        if worker.idle:
            worker.idle.pop()  # the one that was used last
            self._later(use, "home", worker)
            return
        worker.waiting.append((at, use))
        self._grow(worker)

    def until(self, at: float) -> None:
        while self.events and self.events[0][0] <= at:
            self.now, _, what, worker = heappop(self.events)
            if what == "check":
                self._retire(worker)
                continue
            worker.connecting -= what == "open"
            self._free(worker)

    def conclude(self, acquires: int, processes: int) -> FleetPrediction:
        for worker in self.workers:
            for _ in worker.waiting:
                self._give_up()
        self.waits.sort()
        count = max(acquires, 1)

        def quantile(share: float) -> float:
            index = int(share * count) - (count - len(self.waits))
            return self.waits[index] if self.waits and index >= 0 else 0.0

        return FleetPrediction(
            processes=processes,
            connections=self.most,
            without=sum(worker.asked and not worker.had for worker in self.workers),
            acquires=acquires,
            p50=quantile(0.5),
            p99=quantile(0.99),
            timeouts=self.in_vain / count,
        )

    def _later(self, seconds: float, what: str, worker: _Worker) -> None:
        self._number += 1
        heappush(self.events, (self.now + seconds, self._number, what, worker))

    def _grow(self, worker: _Worker) -> None:
        """Open one more, if someone waits that no connect under way will serve."""
        if worker.opened >= worker.size or len(worker.waiting) <= worker.connecting:
            return
        if not self.left:
            self.refused.append(worker)
            return
        self.left -= 1
        self.opened += 1
        self.most = max(self.most, self.opened)
        worker.had = True
        worker.opened += 1
        worker.connecting += 1
        self._later(self.connect, "open", worker)

    def _free(self, worker: _Worker) -> None:
        """Give a connection to the first who still waits, or let it be idle."""
        while worker.waiting:
            at, use = worker.waiting.popleft()
            if self.now - at > self.timeout:
                self._give_up()
                continue
            self.waits.append(self.now - at)
            self._later(use, "home", worker)
            return
        worker.idle.append(self.now)
        self._later(self.max_idle, "check", worker)

    def _give_up(self) -> None:
        self.in_vain += 1
        self.waits.append(self.timeout)

    def _retire(self, worker: _Worker) -> None:
        """Close what nobody has needed for so long, and let another process have its place."""
        # The sum by which this was planned: a difference could be off by the last digit.
        while worker.idle and worker.idle[0] + self.max_idle <= self.now:
            worker.idle.popleft()
            worker.opened -= 1
            self.opened -= 1
            self.left += 1
            while self.left and self.refused:
                self._grow(self.refused.popleft())

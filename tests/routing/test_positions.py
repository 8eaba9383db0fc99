"""Those who wait for a server to have come somewhere: however many they are."""

from __future__ import annotations

import threading
from time import monotonic
from typing import Any

from django_poolkit.pools.postgres.positions import Reading
from django_poolkit.routing.floors import Position
from django_poolkit.routing.positions import Server, Waiter, once
from django_poolkit.testing.waiting import wait_until

MANY = 200


class _Compared(Waiter):
    """Counts how often it is held against another one."""

    count = 0

    def __eq__(self, other: object) -> bool:
        type(self).count += 1
        return self is other

    __hash__ = object.__hash__


class _Reader:
    """A server that answers when it is told to."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.answers = threading.Event()

    def read(self, seconds: float) -> Reading:
        self.asked.set()
        self.answers.wait(60.0)
        return Reading(True, Position(1, 1, 1), True, None)

    def release(self) -> None:
        """Nothing is kept."""


def _crowd(server: Server) -> list[Waiter]:
    _Compared.count = 0
    crowd: list[Waiter] = [_Compared(monotonic() + 60.0, lambda: None, once) for _ in range(MANY)]
    for waiter in crowd:
        server.ask(waiter)
    return crowd


def test_to_leave_a_crowd_costs_nobody_a_look_at_all_of_it() -> None:
    reader: Any = _Reader()
    server = Server(reader)
    crowd = _crowd(server)
    try:
        for waiter in reversed(crowd):
            server.leave(waiter)
            server.leave(waiter)  # who has left, may do so again
        assert _Compared.count <= MANY
    finally:
        reader.answers.set()


def test_an_answer_to_a_crowd_is_given_without_looking_at_it_for_each() -> None:
    reader: Any = _Reader()
    server = Server(reader)
    crowd = _crowd(server)
    assert reader.asked.wait(60.0)
    reader.answers.set()
    wait_until(lambda: all(waiter.reading is not None for waiter in crowd))
    wait_until(lambda: not server._waiters)
    assert _Compared.count <= MANY

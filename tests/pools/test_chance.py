"""What the kit leaves to chance: it is another one in each process, and nobody else's."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable

import pytest

from django_poolkit.pools import forks
from django_poolkit.pools.chance import chance


def drawn_in_child(after: Callable[[], object]) -> float:
    """Return what a forked child draws first."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            after()
            os.write(writer, repr(chance.random()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as said:
        drawn = float(said.read())
    assert os.waitpid(child, 0)[1] == 0
    return drawn


def test_a_forked_child_does_not_draw_what_its_parent_does() -> None:
    assert drawn_in_child(lambda: None) != chance.random()


def test_nor_does_one_that_was_forked_behind_pythons_back(monkeypatch: pytest.MonkeyPatch) -> None:
    # Of all that is called in a child, this alone: the pools of this process are others' business.
    monkeypatch.setattr(forks, "_functions", [f for f in forks._functions if f == chance.seed])
    monkeypatch.setattr(threading, "_after_fork", lambda: None)
    same = chance.getstate()

    def as_the_server_does() -> None:
        chance.setstate(same)
        forks._process = 0
        forks.tell()

    assert drawn_in_child(as_the_server_does) != chance.random()


def test_it_is_not_that_of_who_seeds_random() -> None:
    random.seed(1)
    wanted = random.random()
    random.seed(1)
    chance.random()
    assert random.random() == wanted

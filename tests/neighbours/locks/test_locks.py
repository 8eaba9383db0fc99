"""django-pglock on leases: its locks keep out who they should, and only those of sessions pin."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from django_poolkit.testing import Node
from tests.neighbours.census import grown
from tests.neighbours.support import drive, own_database

ROUNDS = 3 * 100

Found = dict[str, Any]


@pytest.fixture(scope="module")
def found(primary: Node, mode: str) -> Iterator[Found]:
    """What came of it when three threads locked each other out, on a pool of two."""
    with own_database(primary, f"locks_{mode}", mode=mode) as database:
        yield drive("tests.neighbours.locks.drive", "LOCKS", {"database": database})


def test_who_holds_a_lock_is_alone(found: Found) -> None:
    every = ROUNDS + 3 * 5  # five of each thread to begin with
    assert found["counted"] == {"1": every, "2": every}
    assert (found["alone"]["acquired"], found["alone"]["from elsewhere"]) == (True, False)


def test_no_lock_is_left(found: Found) -> None:
    assert found["alone"]["held in the block"] == 1
    assert found["alone"]["held in the session"] == 1
    assert found["held"] == 0
    assert found["used"] == 0


def test_a_timeout_ends_with_its_block(found: Found) -> None:
    assert (found["alone"]["timeout"], found["alone"]["timeout after it"]) == ("7s", "0")


def test_locks_of_sessions_pin_and_others_do_not(found: Found, mode: str) -> None:
    pinned = {name: why for name, why in found["alone"].items() if isinstance(why, list) and why}
    if mode == "session":
        assert (found["pins"], pinned) == ({}, {})
    else:
        assert found["pins"] == {"advisory_lock": ROUNDS}  # of twice as many
        assert pinned == {
            "a lock of a session": ["advisory_lock"] * 2,  # the other thread's as well
            "a timeout": ["set"],
        }


def test_nothing_grows_from_round_to_round(found: Found) -> None:
    assert grown(found["few"], found["many"]) == {}

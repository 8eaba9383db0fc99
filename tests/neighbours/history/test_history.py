"""django-pghistory on leases: an event has its visitor's context, and nothing pins."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from django_poolkit.testing import Node
from tests.neighbours.census import grown
from tests.neighbours.support import drive, own_database

REQUESTS = 4 * 75
VISITORS = 4
EVENTS = 5
"""Of each request."""

Found = dict[str, Any]


@pytest.fixture(scope="module")
def found(primary: Node, mode: str) -> Iterator[Found]:
    """What came of it when four visitors wrote at the same time, on a pool of two."""
    with own_database(primary, f"history_{mode}", mode=mode) as database:
        yield drive("tests.neighbours.history.drive", "HISTORY", {"database": database})


def test_each_event_has_the_context_of_its_visitor(found: Found) -> None:
    each = EVENTS * (REQUESTS // VISITORS + 5)  # five to begin with
    assert found["events"] == {
        **{f"visitor{number} by visitor{number}": each for number in range(VISITORS)},
        "by hand by nobody": 3,
    }


def test_a_context_pins_nothing(found: Found, mode: str) -> None:
    assert found["pins"] == {}
    assert found["used"] == 0
    if mode == "transaction":
        assert found["acquired"] >= 6 * REQUESTS  # given back between the statements
        assert found["resets"] == 0
    else:
        assert found["resets"] == REQUESTS  # each has one statement of its own


def test_the_triggers_leave_nothing(found: Found) -> None:
    assert found["said"] == []


def test_triggers_are_ignored_without_a_pin_where_that_ends_with_the_block(
    found: Found, mode: str
) -> None:
    pinned = {name: why for name, why in found["by_hand"].items() if why}
    assert "ignore() in a block" in found["by_hand"]
    if mode == "session":
        assert pinned == {}
    else:
        assert pinned == {
            # Its end is a set_config(…, false) as text.
            "ignore() in a block": ["set"],
            # It registers a dumper with the driver's connection.
            "create_event() in a block": ["raw"],
            "create_event()": ["raw"],
        }


def test_nothing_grows_from_request_to_request(found: Found) -> None:
    assert grown(found["few"], found["many"]) == {}

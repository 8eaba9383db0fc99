"""Channels on leases: a websocket that is open for hours holds nothing between two messages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from django_poolkit.testing import Node
from tests.neighbours.channels.names import KINDS, MESSAGES, OF_EACH
from tests.neighbours.support import drive, own_database

Found = dict[str, Any]


@pytest.fixture(
    scope="module",
    params=[("session", "uvicorn"), ("transaction", "uvicorn"), ("transaction", "daphne")],
    ids="-".join,
)
def site(request: pytest.FixtureRequest) -> tuple[str, str]:
    """How long a lease lasts, and what serves."""
    chosen: tuple[str, str] = request.param
    return chosen


@pytest.fixture(scope="module")
def found(primary: Node, site: tuple[str, str]) -> Iterator[Found]:
    """What came of it when fifteen websockets shared a pool of two."""
    mode, server = site
    with own_database(primary, f"channels_{mode}_{server}", mode=mode) as database:
        given = {"database": database, "server": server}
        yield drive("tests.neighbours.channels.drive", "CHANNELS", given, node=primary)


def test_each_message_is_answered(found: Found) -> None:
    assert found["messages"]["answers"] == [
        [f"{kind} {number} says {turn}: 1" for turn in range(MESSAGES)]
        for kind in KINDS
        for number in range(OF_EACH)
    ]
    assert found["view"] == 200


def test_nobody_holds_a_lease_between_messages(found: Found) -> None:
    messages = found["messages"]
    assert messages["used when all are connected"] == 0  # each has looked its user up
    assert messages["used between messages"] == 0
    assert messages["used after a restart"] == 0


def test_without_leases_by_message_one_thread_keeps_one_in_session_mode(
    found: Found, site: tuple[str, str]
) -> None:
    assert found["bare"] == {"between messages": int("session" in site), "at the end": 0}


def test_a_group_is_told(found: Found) -> None:
    assert found["messages"]["told"] == ["all: hello, 0"] * OF_EACH


def test_a_lease_has_the_name_of_its_consumer(found: Found) -> None:
    here = "tests.neighbours.channels.site"
    assert found["messages"]["named"] == {
        "Sync": f"WEBSOCKET {here}.Sync",
        "Hops": "WEBSOCKET (no view)",  # not one of ours
        "Ours": f"WEBSOCKET {here}.Ours",
    }


def test_websockets_outlive_a_restart_of_the_database(found: Found) -> None:
    assert found["messages"]["after a restart"] == [f"{kind} again: 1" for kind in KINDS]


def test_nothing_that_was_acknowledged_is_lost_by_a_restart(found: Found) -> None:
    assert found["restart"] == {"lost": [], "forged": []}
    assert found["end"]["used"] == found["end"]["leaks"] == 0
    assert found["end"]["size"] <= 2

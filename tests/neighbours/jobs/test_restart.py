"""procrastinate through a restart: what was deferred is there, and is run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from django_poolkit.testing import Node
from tests.neighbours.support import drive, own_database

Found = dict[str, Any]


@pytest.fixture(scope="module", params=["session", "transaction"])
def found(primary: Node, request: pytest.FixtureRequest) -> Iterator[Found]:
    """What came of it when the server was restarted under four who defer, and a worker."""
    with own_database(primary, f"deferred_{request.param}", mode=request.param) as database:
        yield drive("tests.neighbours.jobs.restart", "JOBS", {"database": database}, node=primary)


def test_nothing_that_was_deferred_is_lost(found: Found) -> None:
    assert found["lost"] == found["forged"] == []


def test_the_worker_runs_it_all(found: Found) -> None:
    assert found["not done"] == []
    assert found["states"].get("todo", 0) == 0
    assert found["states"]["succeeded"] >= 2 * 4 * 5 - 2
    # What a worker has taken that ended meanwhile is procrastinate's own to take up again.
    assert found["states"].get("doing", 0) <= 2 * found["ended"]


def test_nothing_is_left_behind(found: Found) -> None:
    assert found["pool"] == {"used": 0, "waiters": 0, "leaks": 0}
    assert found["size"] <= 2
    assert found["worker"] == {"used": 0, "waiters": 0, "leaks": 0}


def test_a_connector_on_our_pool_does_not_close_it(found: Found) -> None:
    assert found["closed"] is False

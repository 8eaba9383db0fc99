"""procrastinate on leases: jobs are deferred with their block, a worker runs them, none pins."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from django_poolkit.testing import Node
from tests.neighbours.census import grown
from tests.neighbours.support import drive, own_database

REQUESTS = 3 * 100

Found = dict[str, Any]


@pytest.fixture(scope="module", params=["session", "transaction"])
def found(primary: Node, request: pytest.FixtureRequest) -> Iterator[Found]:
    """What came of it when three threads deferred jobs, and a worker ran some, on a pool of two."""
    with own_database(primary, f"jobs_{request.param}", mode=request.param) as database:
        yield drive("tests.neighbours.jobs.drive", "JOBS", {"database": database})


def test_a_job_is_there_if_its_block_was_committed(found: Found) -> None:
    every = REQUESTS + 3 * 5  # five of each thread to begin with
    assert found["deferred"] == {"by itself": every, "in a block": every}


def test_a_worker_runs_jobs_on_leases(found: Found) -> None:
    assert found["worker"]["items"] == {
        "1": "item 1 by a thread",
        "2": "item 2 by a thread",
        "3": "item 3 by a coroutine",
        "4": "item 4 by a thread",
        "5": "as made",
    }
    assert found["worker"]["jobs"] == {"succeeded": 4, "failed": 1}
    assert found["used"] == 0


def test_neither_requests_nor_the_worker_pin(found: Found) -> None:
    assert found["pins"] == {}
    assert found["pins of the worker"] == {}
    assert found["said"] == []  # by the check of what functions leave


def test_nothing_grows_from_request_to_request(found: Found) -> None:
    assert grown(found["few"], found["many"]) == {}

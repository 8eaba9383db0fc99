"""django.tasks on leases: they end with their task and bear its name, and an idle loop has none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from django_poolkit.testing import Node
from tests.neighbours.support import drive, own_database

pytest.importorskip("django.tasks", reason="django.tasks is new in Django 6.0")

Found = dict[str, Any]
HERE = "tests.neighbours.tasks"


@pytest.fixture(scope="module")
def found(primary: Node, mode: str) -> Iterator[Found]:
    """What came of it when a worker ran tasks, and the server was restarted twice."""
    with own_database(primary, f"tasks_{mode}", mode=mode) as database:
        yield drive(f"{HERE}.drive", "TASKS_SITE", {"database": database}, node=primary)


def test_a_worker_runs_what_was_committed(found: Found) -> None:
    assert found["first"] == {"SUCCESSFUL": 10}
    assert found["results"] == {"1": 10}  # each has seen what it wrote


def test_its_loop_holds_nothing_while_there_is_nothing_to_do(found: Found) -> None:
    assert found["idle"]
    assert found["idle in the end"]


def test_a_lease_has_the_name_of_what_acquired_it(found: Found, mode: str) -> None:
    # In session mode the worker has one since it looked for something to do.
    by_mode = {"transaction": f"{HERE}.tasks.wait", "session": "django db_worker"}
    assert found["where"] == by_mode[mode]


def test_a_restart_within_a_task_fails_it_and_no_more(found: Found) -> None:
    assert found["after"] == {"SUCCESSFUL": 10, "FAILED": 1}
    assert found["ended by a restart within a task"] == []


def test_nothing_that_was_enqueued_is_lost_by_a_restart(found: Found) -> None:
    assert found["lost"] == []
    assert found["done more or less than once"] == []
    # What a worker has taken that its own queries then failed under, nobody takes again.
    assert found["in the end"].get("RUNNING", 0) <= found["ended"] <= 1
    assert found["in the end"]["SUCCESSFUL"] > 10


def test_nothing_is_left_behind(found: Found) -> None:
    assert found["pool"] == {"used": 0, "waiters": 0, "leaks": 0}
    assert found["size"] <= 2
    assert found["code"] == 0


def test_one_that_runs_at_once_has_its_name_too(found: Found) -> None:
    assert found["at once"] == [f"{HERE}.tasks.look"]

"""The panel of debug toolbar tells what a request leased, and leaves nothing behind."""

from __future__ import annotations

from typing import Any

import pytest

from django_poolkit.testing import Node
from tests.neighbours.support import drive, own_database

MODULE = "tests.neighbours.toolbar.drive"


@pytest.fixture(scope="module", params=["transaction", "session"])
def found(request: pytest.FixtureRequest, primary: Node) -> dict[str, Any]:
    with own_database(primary, f"toolbar_{request.param}", mode=request.param) as database:
        result = drive(MODULE, "TOOLBAR", {"database": database})
    return {"mode": request.param, **result}


def leases(found: dict[str, Any], view: str) -> list[tuple[int, str]]:
    return [(row["statements"], row["pins"]) for row in found[view]["stats"]["leases"]]


def test_each_lease_with_its_statements_and_pins(found: dict[str, Any]) -> None:
    seen = leases(found, "plain")
    if found["mode"] == "transaction":
        # Two alone, the block, and the one that is pinned until the end of the request.
        assert seen == [(1, ""), (1, ""), (2, ""), (2, "set")]
        assert found["plain"]["stats"]["pins"] == ["set"]
    else:
        assert seen == [(6, "")]
    assert found["plain"]["stats"]["statements"] == 6
    assert all(row["pool"] == "default" for row in found["plain"]["stats"]["leases"])


def test_those_of_threads_that_a_coroutine_uses_count(found: dict[str, Any]) -> None:
    assert leases(found, "coroutine") == (
        [(1, ""), (1, "")] if found["mode"] == "transaction" else [(2, "")]
    )


def test_an_acquire_that_failed_is_told(found: dict[str, Any]) -> None:
    [failure] = found["short"]["stats"]["failures"]
    assert failure.startswith("default: ")


def test_a_request_without_a_lease_has_none(found: dict[str, Any]) -> None:
    assert leases(found, "idle") == []
    assert "0 leases" in found["idle"]["page"]


def test_it_can_be_read(found: dict[str, Any]) -> None:
    assert "6 statements on" in found["plain"]["page"]
    assert "Pools" in found["plain"]["bar"]
    count = len(leases(found, "plain"))
    assert f"{count} lease" in found["plain"]["bar"]


def test_nothing_listens_when_no_request_has_it(found: dict[str, Any]) -> None:
    assert found["left"] == []

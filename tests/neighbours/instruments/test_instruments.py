"""Four instruments at once: each records what it records without us, and costs no pin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from django_poolkit.testing import Node
from tests.neighbours.support import drive

REQUESTS = 100
THEIRS = "django_prometheus.db.backends.postgresql"
OURS = "tests.neighbours.instruments.engine"
RECORDERS = ("toolbar", "sentry", "opentelemetry", "prometheus")


@pytest.fixture
def serve(primary: Node, request: pytest.FixtureRequest) -> Callable[..., dict[str, Any]]:
    """Return a function that has requests served, on a database of their own."""

    def run(engine: str, pool: dict[str, Any] | None) -> dict[str, Any]:
        name = f"instruments_{(pool or {}).get('mode', 'none')}"
        primary.create_database(name)
        request.addfinalizer(lambda: primary.execute(f"DROP DATABASE {name} WITH (FORCE)"))
        database = {**primary.django_settings(), "NAME": name, "ENGINE": engine}
        options = {"pool": pool} if pool else {}
        given = {"database": {**database, "OPTIONS": options}}
        return drive("tests.neighbours.instruments.drive", "INSTRUMENTS", given)

    return run


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_each_records_every_statement_and_none_pins(
    serve: Callable[..., dict[str, Any]], mode: str
) -> None:
    without = serve(THEIRS, None)
    # Sentry and the toolbar see the statement of the iterator, too, which is a named cursor's.
    assert [without[name] / REQUESTS for name in RECORDERS] == [5, 5, 4, 4]
    found = serve(OURS, {"mode": mode, "max_size": 2})
    assert {name: found[name] for name in RECORDERS} == {name: without[name] for name in RECORDERS}
    assert found["pins"] == {}
    assert found["used"] == 0
    assert found["depths"] == 1, "the cursor class is wrapped once more with each lease"
    if mode == "transaction":
        assert found["acquired"] >= 4 * REQUESTS  # given back between the statements

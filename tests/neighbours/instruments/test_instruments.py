"""Four instruments, alone and at once: each records all, none costs a pin, and nothing grows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from django_poolkit.testing import Node
from tests.neighbours.census import grown
from tests.neighbours.support import drive

REQUESTS = 300
THEIRS = "django_prometheus.db.backends.postgresql"
OURS = "tests.neighbours.instruments.engine"
PLAIN = "django_poolkit.backends.postgresql"
# Sentry and the toolbar see the statement of the iterator, too, which is a named cursor's.
RECORDED = {"toolbar": 5, "sentry": 5, "opentelemetry": 4, "prometheus": 4}
"""Statements of each request."""

Serve = Callable[..., dict[str, Any]]


@pytest.fixture
def serve(primary: Node, request: pytest.FixtureRequest) -> Serve:
    """Return a function that has requests served, on a database of their own."""

    def run(
        engine: str, pool: dict[str, Any] | None, *instruments: str, requests: int = REQUESTS
    ) -> dict[str, Any]:
        name = f"instruments_{len(instruments)}_{(pool or {}).get('mode', 'none')}"
        primary.create_database(name)
        request.addfinalizer(lambda: primary.execute(f"DROP DATABASE {name} WITH (FORCE)"))
        database = {**primary.django_settings(), "NAME": name, "ENGINE": engine}
        options = {"pool": pool} if pool else {}
        given = {
            "database": {**database, "OPTIONS": options},
            "instruments": instruments,
            "requests": requests,
        }
        return drive("tests.neighbours.instruments.drive", "INSTRUMENTS", given)

    return run


def check(found: dict[str, Any], mode: str, *instruments: str) -> None:
    """Compare with what each records without us, which the last test looks up."""
    assert found["recorded"] == {name: RECORDED[name] * REQUESTS for name in instruments}
    assert found["pins"] == {}
    assert found["used"] == 0
    assert grown(found["few"], found["many"]) == {}
    if mode == "transaction":
        assert found["acquired"] >= 4 * REQUESTS  # given back between the statements


@pytest.mark.parametrize("name", RECORDED)
def test_each_alone_records_every_statement_and_pins_none(serve: Serve, name: str) -> None:
    engine = OURS if name == "prometheus" else PLAIN
    found = serve(engine, {"mode": "transaction", "max_size": 2}, name)
    check(found, "transaction", name)


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_all_at_once_record_every_statement_and_pin_none(serve: Serve, mode: str) -> None:
    check(serve(OURS, {"mode": mode, "max_size": 2}, *RECORDED), mode, *RECORDED)


def test_without_us_they_record_the_same(serve: Serve) -> None:
    few = 20
    found = serve(THEIRS, None, *RECORDED, requests=few)
    assert found["recorded"] == {name: times * few for name, times in RECORDED.items()}

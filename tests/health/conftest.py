"""Sites that are asked for their health, and checks that have seen nothing yet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from django_poolkit.health import declared
from django_poolkit.health.runner import runner
from tests.health.drive import Site

Serve = Callable[..., Site]


@pytest.fixture(autouse=True)
def nothing_seen() -> Iterator[None]:
    """Begin and end without results, without threads, and with the checks of the kit alone."""
    runner.close(5.0)
    before = dict(declared._declared)
    declared._declared.clear()
    yield
    runner.close(5.0)
    declared._declared.clear()
    declared._declared.update(before)


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Return a function that makes a site; its settings go with the test."""
    sites: list[Site] = []

    def serve(way: str, **facts: Any) -> Site:
        sites.append(Site(way, **facts))
        return sites[-1]

    yield serve
    for site in reversed(sites):
        site.close()

"""Sites that are asked for their health, and checks that have seen nothing yet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.health.drive import Site

Serve = Callable[..., Site]


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

"""Servers for the directed runs, started once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.checker.servers import Servers, started


@pytest.fixture(scope="module")
def made() -> Iterator[Servers]:
    """A primary and two replicas, each behind its gate."""
    with started() as servers:
        yield servers

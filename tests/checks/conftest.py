"""What the tests of the checks share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from django_poolkit.testing import Node
from tests.checks.sites import Site
from tests.checks.stories import Stage


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Site:
    """Return what runs Django's own `check` over other settings."""
    return Site(monkeypatch)


@pytest.fixture
def stage(
    site: Site, monkeypatch: pytest.MonkeyPatch, primary: Node, django_db_blocker: Any
) -> Iterator[Stage]:
    """What a story is told on, with the server of the run."""
    with django_db_blocker.unblock():
        yield Stage(site, monkeypatch, primary)

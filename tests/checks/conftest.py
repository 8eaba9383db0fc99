"""What the tests of the checks share."""

from __future__ import annotations

import pytest

from tests.checks.sites import Site


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Site:
    """Return what runs Django's own `check` over other settings."""
    return Site(monkeypatch)

"""Django's default alias with other options, for the length of a test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connection, connections

from django_poolkit import registry
from django_poolkit.pools.postgres import ConnectionPool

NAME = "scenario"
"""The application_name of these connections, by which the server tells them from others."""


@pytest.fixture
def pooled(transactional_db: None) -> Iterator[Callable[..., ConnectionPool]]:
    """Return a function that sets the pool's options for all threads, and returns the pool."""
    entry = connections.settings["default"]
    before = entry["OPTIONS"]

    def change(**options: Any) -> ConnectionPool:
        connections.close_all()
        registry.pools.close_all()
        entry["OPTIONS"] = {"pool": {"timeout": 5.0, **options}, "application_name": NAME}
        pool: ConnectionPool | None = getattr(connections["default"], "pool", None)
        assert pool is not None
        return pool

    try:
        yield change
    finally:
        connection.close()
        entry["OPTIONS"] = before
        registry.pools.close_all()

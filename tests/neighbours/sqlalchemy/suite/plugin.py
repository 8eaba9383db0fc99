"""A pytest plugin: a site on one pool, for SQLAlchemy's tests; at their end nothing is leased."""

from __future__ import annotations

import json
import os

import django
import pytest
from django.conf import settings
from sqlalchemy.dialects import registry

_given = json.loads(os.environ["SUITE"])
settings.configure(
    DATABASES={"default": _given["database"]},
    INSTALLED_APPS=["django_poolkit"],
    POOLKIT={"ASYNCPG": {"default": {"max_size": 4}}},
    USE_TZ=True,
)
django.setup()

import sqlalchemy.dialects.postgresql.provision  # noqa: E402, F401 - registers itself

import django_poolkit.contrib.sqlalchemy.engines  # noqa: E402, F401 - registers the dialect
from django_poolkit.registry import measured  # noqa: E402

# The suite goes by the URL alone, and by it one has the dialect of threads.
registry.register(
    "postgresql.poolkit_async",
    "django_poolkit.contrib.sqlalchemy.async_dialect",
    "AsyncPooledDialect",
)


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what became of the leases."""
    for pool in measured():
        stats = pool.stats()
        terminalreporter.write_line(
            "pool: "
            + json.dumps(
                {name: getattr(stats, name) for name in ("name", "acquired", "used", "leaks")}
            )
        )

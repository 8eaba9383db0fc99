"""Sites that are asked for their health, and checks that have seen nothing yet."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connections

from django_poolkit import registry
from django_poolkit.health import declared
from django_poolkit.health.database import DatabaseCheck
from django_poolkit.health.runner import runner
from django_poolkit.testing import Node
from django_poolkit.testing.faults import TCPProxy
from django_poolkit.testing.waiting import wait_until
from tests.health.drive import Site

Serve = Callable[..., Site]
Add = Callable[..., DatabaseCheck]


def _threads_of_checks() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name.startswith("poolkit-health-")]


@pytest.fixture(autouse=True)
def nothing_seen() -> Iterator[None]:
    """Begin and end without results, without threads, and with the checks of the kit alone."""
    runner.close(5.0)
    before = dict(declared._declared)
    declared._declared.clear()
    yield
    runner.close(5.0)
    # Settings that change let threads go without waiting for them; the next test counts its own.
    wait_until(lambda: not _threads_of_checks(), message="a check is left")
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


@pytest.fixture
def clean_pools() -> Iterator[None]:
    """Begin and end without pools."""
    connections.close_all()
    registry.pools.close_all()
    yield
    connections.close_all()
    registry.pools.close_all()


@pytest.fixture
def add(transactional_db: None) -> Iterator[Add]:
    """Return a function that adds an alias, of the default's kind but for what is given."""
    added: list[str] = []

    def add(alias: str, **entry: Any) -> DatabaseCheck:
        connections.settings[alias] = {**connections.settings["default"], **entry}
        added.append(alias)
        return DatabaseCheck(alias=alias)

    yield add
    for alias in added:
        connections[alias].close()
        del connections[alias]
        del connections.settings[alias]


@pytest.fixture
def far(add: Add, primary: Node) -> Iterator[tuple[DatabaseCheck, TCPProxy]]:
    """An alias behind a network that fails on request."""
    with TCPProxy(primary.host, primary.port) as proxy:
        options = {"pool": {"max_size": 2}, "sslmode": "disable", "gssencmode": "disable"}
        yield add("far", HOST=proxy.host, PORT=str(proxy.port), OPTIONS=options), proxy

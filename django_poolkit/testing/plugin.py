"""pytest fixtures for a project's own tests: a real PostgreSQL cluster, and a started site.

pytest loads this module in every project that has django_poolkit installed, so
it imports nothing until a fixture is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from django_poolkit.testing.cluster import Cluster
    from django_poolkit.testing.lifespan import Site
    from django_poolkit.testing.node import Node


@pytest.fixture(scope="session")
def poolkit_cluster() -> Iterator[Cluster]:
    """A primary and one streaming replica, for the whole test session.

    Tests share it: one that changes its settings or stops a node puts that right
    again, or starts a `Cluster` of its own.
    """
    from django_poolkit.testing.cluster import Cluster

    with Cluster(replicas=1) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def poolkit_primary(poolkit_cluster: Cluster) -> Node:
    """The primary of `poolkit_cluster`."""
    return poolkit_cluster.primary


@pytest.fixture(scope="session")
def poolkit_replica(poolkit_cluster: Cluster) -> Node:
    """The replica of `poolkit_cluster`."""
    return poolkit_cluster.replicas[0]


@pytest.fixture
def poolkit_database(poolkit_primary: Node) -> Iterator[str]:
    """The name of an empty database on `poolkit_primary`, dropped after the test."""
    from secrets import token_hex

    name = f"poolkit_{token_hex(4)}"
    poolkit_primary.create_database(name)
    try:
        yield name
    finally:
        poolkit_primary.drop_database(name)


@pytest.fixture
def poolkit_site() -> Iterator[Callable[..., Site]]:
    """A function that starts an ASGI application with its lifespan: `poolkit_site(application)`.

    What it returns is stopped after the test.
    """
    from django_poolkit.testing.lifespan import Site

    with ExitStack() as stack:

        def start(app: Any, **changes: Any) -> Site:
            return stack.enter_context(Site(app, **changes))

        yield start

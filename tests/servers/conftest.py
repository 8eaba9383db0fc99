"""Deployed projects and their servers. A server lives for the tests of one module."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from django_poolkit.testing import Node
from tests.servers.project import Project, create_role

Deploy = Callable[..., Project]


@pytest.fixture(scope="session")
def database(primary: Node) -> Node:
    """The server of the run, with the role that projects connect as."""
    create_role(primary)
    return primary


@pytest.fixture(scope="module")
def deploy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deploy]:
    """Return a function that deploys a project; in the end no part of the password was said."""
    projects: list[Project] = []

    def deploy(
        node: Node, pool: dict[str, Any], *, asyncpg: dict[str, Any] | None = None, **control: Any
    ) -> Project:
        home = tmp_path_factory.mktemp("shop")
        projects.append(Project(home, node, pool, control, asyncpg or {}))
        return projects[-1]

    yield deploy
    for project in projects:
        project.end()
    assert [line for project in projects for line in project.giveaways()] == []

"""What a story of a check is told on: sites, clusters and databases that are right, or wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import psycopg
import pytest
from django.db import connections

from django_poolkit import registry
from django_poolkit.testing import Node
from tests.checks.sites import ENGINE, Site, database

NAME = "both_ways"
GUARDED = {"statement_timeout": "20s", "idle_in_transaction_session_timeout": "1min"}
UNGUARDED: dict[str, Any] = dict.fromkeys(GUARDED)
MIDDLEWARE = "django_poolkit.middleware.PoolkitMiddleware"


@dataclass
class Stage:
    """What a story is told on."""

    site: Site
    patch: pytest.MonkeyPatch
    server: Node

    def health(self, **section: Any) -> list[str]:
        """Return what is found with such a section."""
        return self.site.ids(poolkit={"HEALTH": section}, ROOT_URLCONF="tests.health.drive")

    def routed(
        self, *, primary: Any = None, replica: Any = None, cluster: Any = None,
        section: Any = None, **changes: Any,
    ) -> list[str]:  # fmt: skip
        """Return what is found of a cluster with a replica."""
        changes.setdefault("MIDDLEWARE", [MIDDLEWARE])
        entries = {"default": database(**primary or {}), "replica": database(**replica or {})}
        poolkit: dict[str, Any] = {"CLUSTERS": {"default": cluster or {"replicas": ["replica"]}}}
        if section is not None:
            poolkit |= {"ROUTING": section}
        with self.patch.context() as patch:
            for name, entry in entries.items():
                whole = {**connections.settings["default"], **entry}
                patch.setitem(connections.settings, name, whole)
            return self.site.ids(databases=entries, poolkit=poolkit, **changes)

    def asked(self, sql: str = "", *, port: str = "", **pool: Any) -> list[str]:
        """Return what is found of a database of its own, in which that was run before."""
        self.server.create_database(NAME)
        try:
            if sql:
                place = self.server.conninfo(NAME)
                with psycopg.connect(**place, autocommit=True) as connection:
                    connection.execute(sql)
            entry: dict[str, Any] = {**self.server.django_settings(NAME), "ENGINE": ENGINE}
            entry["PORT"] = port or entry["PORT"]
            options = {"mode": "transaction", "max_size": 1, **GUARDED, **pool}
            options = {key: value for key, value in options.items() if value is not None}
            entry["OPTIONS"] = {"pool": options}
            return self.site.ids(databases={"default": entry}, asked=["default"])
        finally:
            registry.pools.close_all()
            self.server.drop_database(NAME)

    def bridged(self, **entry: Any) -> list[str]:
        """Return what is found with the ORM on the event loop, and a further alias."""
        databases = {"default": database(), "other": {**database(), **entry}}
        return self.site.ids(databases=databases, poolkit={"ASYNC_ORM": {"ENABLED": True}})


Both = tuple[list[str], list[str]]
"""What is found where something is wrong, and where it is right."""
Story = Callable[[Stage], Both]


class Stories:
    """All of them, by id."""

    of: ClassVar[dict[str, Story]] = {}

    @classmethod
    def told(cls, *names: str) -> Callable[[Story], Story]:
        """Have a story be that of these ids."""

        def add(story: Story) -> Story:
            cls.of |= dict.fromkeys(names, story)
            return story

        return add

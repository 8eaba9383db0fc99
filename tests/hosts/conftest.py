"""A primary with two replicas, and an alias `replica` that leads to both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from django.db import connections

from django_poolkit import registry
from django_poolkit.backends.rota import rota
from django_poolkit.testing import Cluster
from django_poolkit.testing.faults import TCPProxy

OURS = "django_poolkit.backends.postgresql"
Replica = Callable[..., Any]


@pytest.fixture(scope="session")
def servers() -> Iterator[Cluster]:
    """A primary and two replicas of this package's own."""
    with Cluster(replicas=2) as cluster:
        cluster.primary.execute("CREATE TABLE notes (text text)")
        for node in cluster.replicas:
            cluster.primary.wait_caught_up(node)
        yield cluster


@pytest.fixture
def proxies(servers: Cluster) -> Iterator[list[TCPProxy]]:
    """A network in front of each replica, that fails on request."""
    with ExitStack() as stack:
        yield [stack.enter_context(TCPProxy(node.host, node.port)) for node in servers.replicas]


@pytest.fixture
def replica(servers: Cluster, proxies: list[TCPProxy], django_db_blocker: Any) -> Iterator[Replica]:
    """Return a function that sets the alias `replica`, and returns its wrapper in this thread."""
    primary = servers.primary.django_settings()

    def make(*, hosts: Any = None, mode: str = "session", **options: Any) -> Any:
        forget()
        pool = {"max_size": 4, "mode": mode, "timeout": 5.0, **options.pop("pool", {})}
        if hosts is None:
            hosts = [at(proxy) for proxy in proxies]
        plain = {"sslmode": "disable", "gssencmode": "disable"}
        connections.settings["replica"] = {
            **connections.settings["default"],
            **primary,
            "HOST": "",
            "PORT": "",
            "ENGINE": OURS,
            "OPTIONS": {**plain, "hosts": hosts, "pool": pool, **options},
            "TEST": {**connections.settings["default"]["TEST"]},
        }
        rota._turns.clear()
        return connections["replica"]

    def forget() -> None:
        if "replica" in connections.settings:
            wrapper: Any = connections["replica"]
            wrapper.close()
            wrapper.close_pool()
            del connections["replica"]
            del connections.settings["replica"]
        registry.pools.close_all()

    registry.pools.reopen()
    with django_db_blocker.unblock():
        yield make
        forget()


def at(proxy: TCPProxy, **more: Any) -> dict[str, Any]:
    """Return the entry of a host behind a proxy."""
    return {"HOST": proxy.host, "PORT": str(proxy.port), **more}


def ask(wrapper: Any, sql: str = "SHOW port") -> Any:
    """Run a statement; return its one value."""
    with wrapper.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchone()[0]


def ports_of(servers: Cluster) -> list[str]:
    """Return the ports of the replicas, by which a query tells where it ran."""
    return [str(node.port) for node in servers.replicas]

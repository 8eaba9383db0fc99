"""Django's default alias in transaction mode, the server behind it, and a neighbour."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connections
from django.db.backends.signals import connection_created

from django_poolkit import registry
from django_poolkit.pools.postgres import ConnectionPool
from django_poolkit.testing import Node
from django_poolkit.testing.faults import TCPProxy
from tests.backends.transaction_mode.support import Neighbour, Server, backend, connection
from tests.pools.support import unique


@pytest.fixture
def session_name() -> str:
    """By which the server tells the connections of this test from those of others."""
    return unique("transaction-mode")


@pytest.fixture
def pooled(transactional_db: None, session_name: str) -> Iterator[Callable[..., ConnectionPool]]:
    """Return a function that sets the options of the default alias, and returns its pool.

    Options are the pool's; those of the alias itself come by their own names in `entry`, and
    its other `OPTIONS` in `options`. In the end nothing may be leased or left in a transaction.
    """
    alias = connections.settings["default"]
    before = dict(alias)
    pools: list[ConnectionPool] = []

    def change(
        *, entry: dict[str, Any] | None = None, options: dict[str, Any] | None = None, **pool: Any
    ) -> ConnectionPool:
        connections.close_all()
        registry.pools.close_all()
        chosen = {"mode": "transaction", "timeout": 5.0, **pool}
        alias["OPTIONS"] = {"pool": chosen, "application_name": session_name, **(options or {})}
        alias.update(entry or {})
        made: ConnectionPool = connection.pool
        pools.append(made)
        return made

    try:
        yield change
        connection.close()
        for pool in pools:
            stats = pool.stats()
            assert (stats.used, stats.waiters) == (0, 0)
            assert stats.size == stats.idle + stats.connecting
    finally:
        connection.close()
        alias.clear()
        alias.update(before)
        registry.pools.close_all()


@pytest.fixture
def server(
    pooled: Callable[..., ConnectionPool], session_name: str, primary: Node
) -> Iterator[Server]:
    """The server, asked on a connection of its own."""
    database = connection.settings_dict["NAME"]
    with primary.connect(dbname=database, application_name="observer") as observer:
        yield Server(observer, session_name)


@pytest.fixture
def neighbour(pooled: Callable[..., ConnectionPool]) -> Iterator[Neighbour]:
    """Another thread that uses the same alias."""
    neighbour = Neighbour()
    yield neighbour
    neighbour.leaves()


@pytest.fixture
def proxy(primary: Node) -> Iterator[TCPProxy]:
    """A proxy in front of the server, which counts round trips."""
    with TCPProxy(primary.host, primary.port) as proxy:
        yield proxy


@pytest.fixture
def receiving() -> Iterator[Callable[[Callable[..., None]], list[int]]]:
    """Return a function that connects a receiver, and returns the backends that it was sent."""
    receivers: list[Any] = []

    def connect(act: Callable[[Any], object] = lambda wrapper: None) -> list[int]:
        seen: list[int] = []

        def receiver(connection: Any, **kwargs: Any) -> None:
            seen.append(backend(using=connection))
            act(connection)

        receivers.append(receiver)
        connection_created.connect(receiver)
        return seen

    yield connect
    for receiver in receivers:
        connection_created.disconnect(receiver)

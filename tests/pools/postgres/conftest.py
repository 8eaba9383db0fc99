"""A network in between, and a name by which the server knows a test's connections."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from django_poolkit.pools.postgres import ConnectionPool
from django_poolkit.testing import Node
from django_poolkit.testing.faults import TCPProxy
from tests.pools.support import unique


@pytest.fixture
def app() -> str:
    """The `application_name` of this test's connections."""
    return unique()


class Network(TCPProxy):
    """A faulty network that can also say something in the server's name."""

    def say(self, data: bytes) -> None:
        """Send data to all clients, as if it came from the server."""

        async def write() -> None:
            for link in self._links:
                link.client.write(data)

        self._do(write())


@pytest.fixture
def proxy(primary: Node) -> Iterator[Network]:
    """A network in front of the server, which fails on request."""
    with Network(primary.host, primary.port) as proxy:
        yield proxy


@pytest.fixture
def far_pool(
    make_pool: Callable[..., ConnectionPool], proxy: TCPProxy
) -> Callable[..., ConnectionPool]:
    """Return a function that makes pools whose connections go through `proxy`."""

    def make(**options: object) -> ConnectionPool:
        # Without TLS and GSS a connect is one connection of the proxy, and nothing else.
        place = {
            "host": proxy.host, "port": proxy.port, "sslmode": "disable", "gssencmode": "disable",
        }  # fmt: skip
        return make_pool(kwargs=place | options.pop("kwargs", {}), **options)  # type: ignore[operator]

    return make

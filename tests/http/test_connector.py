"""The private names that the connector relies on, and what it does with sockets."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import aiohttp
import pytest

from django_poolkit.http.shared import SharedClientSession
from django_poolkit.testing.waiting import wait_until
from tests.http.support import MakeSession, read
from tests.http.upstream import Upstream


def test_the_private_names_are_what_they_were_taken_for(
    make: MakeSession, upstream: Upstream, secure: Upstream, cafile: Any
) -> None:
    session = make(CAFILE=str(cafile))

    async def main() -> None:
        await read(session, upstream.url())
        await read(session, secure.url())
        response = await session.get(upstream.url("/bytes?n=2000000"))
        [opened] = session._opened.values()
        connector = opened.connector
        # aiohttp: what is idle and what is used, and whether it is closed.
        assert isinstance(connector._conns, dict)
        assert len(connector._conns) == 1
        [[(idle, since)]] = connector._conns.values()
        [used] = connector._acquired
        assert isinstance(since, float)
        assert connector._closed is False
        transports = connector._transports()
        assert transports == [idle.transport, used.transport]
        # aiohttp: of what a request has, it asks whether it was given back.
        assert response.connection is not None
        assert response.connection._protocol is used
        assert list(connector._connections) == [response.connection]
        # asyncio: by these a transport knows whether it has a socket to complain of.
        plain, tls = transports[1], transports[0]
        assert plain.get_extra_info("sslcontext") is None
        assert plain._sock.fileno() >= 0  # type: ignore[attr-defined]
        assert tls.get_extra_info("sslcontext") is not None
        assert tls._closed is False  # type: ignore[attr-defined]
        assert tls._ssl_protocol._transport._sock.fileno() >= 0  # type: ignore[attr-defined]
        # aiohttp: a response is kept alive by what its reader is to call at the end.
        reader = response.content._reader  # type: ignore[attr-defined]
        assert len(reader._eof_callbacks) >= 1
        assert response._response_eof not in reader._eof_callbacks
        # aiohttp: by this a connection knows who reads from it.
        assert used._payload is reader
        response.close()

    asyncio.run(main())


def test_each_socket_is_known_from_its_making_to_its_end(
    make: MakeSession, upstream: Upstream
) -> None:
    made: list[socket.socket] = []

    def factory(info: Any) -> socket.socket:
        made.append(socket.socket(*info[:3]))
        return made[-1]

    session = make(socket_factory=factory, limit=3)

    async def main() -> None:
        await asyncio.gather(*(read(session, upstream.url()) for _ in range(9)))
        [opened] = session._opened.values()
        assert opened.connector.open == len(made) == 3
        made[0].shutdown(socket.SHUT_RDWR)
        await asyncio.sleep(0.05)  # as the loop does, it hears of it
        assert opened.connector.open == session.stats().size == 2

    asyncio.run(main())
    assert [sock.fileno() for sock in made] == [-1] * 3


def test_a_connector_that_could_not_be_made_complains_of_nothing(
    session: SharedClientSession,
) -> None:
    from django_poolkit.http.connector import Connector

    async def main() -> None:
        with pytest.raises(TypeError, match="nonsense"):
            Connector(None, {"nonsense": True}, RuntimeError)

    asyncio.run(main())


def test_sockets_that_would_not_close_are_cut_off(make: MakeSession, upstream: Upstream) -> None:
    session = make()

    async def main() -> None:
        await read(session, upstream.url())
        [opened] = session._opened.values()
        [[(protocol, _)]] = opened.connector._conns.values()
        never = asyncio.get_running_loop().create_future()
        protocol._closed = never  # as where the peer takes nothing of what is still to be sent
        started = asyncio.get_running_loop().time()
        await opened.connector.close_within(0.3)
        assert asyncio.get_running_loop().time() - started < 2
        assert opened.connector.open == 0

    asyncio.run(main())
    wait_until(lambda: upstream.connections == 0)


def test_with_aiohttp_of_another_kind_nothing_is_inherited_unknown() -> None:
    """Its constructor takes all that ours is called with."""
    import inspect

    names = inspect.signature(aiohttp.TCPConnector).parameters
    assert {"socket_factory", "resolver", "ssl"} <= set(names)
    assert "middlewares" in inspect.signature(aiohttp.ClientSession).parameters

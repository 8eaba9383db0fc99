"""aiohttp's connector, with sockets that are known and addresses that are looked at.

The one place that knows private names, of aiohttp's connector and of asyncio's transports: what
is inherited by a forked child, or left behind by a loop that was closed, can be let go of in no
other way. `tests/http/test_connector.py` names them.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from django_poolkit.conf.http import AddressRule
from django_poolkit.http import addresses
from django_poolkit.http.errors import RequestRefused
from django_poolkit.http.figures import Call

# Seconds of the time for closing that are kept for cutting off what would not close.
_CUT: Final = 0.1


class Connector(aiohttp.TCPConnector):
    """The connections of one client session on one event loop."""

    _pid = 0  # where the constructor raises

    def __init__(
        self,
        rule: AddressRule | None,
        options: Mapping[str, Any],
        refusal: Callable[[], Exception],
    ) -> None:
        """`refusal` makes what is raised to those who need a connection when it is closed."""
        self._rule = rule
        self._refusal = refusal
        self._their_factory: Callable[[Any], socket.socket] | None = options.get("socket_factory")
        # Guards the set: it is counted by other threads.
        self._sockets_lock = threading.Lock()
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        # What requests have, which would complain when they are collected.
        self._connections: weakref.WeakSet[Any] = weakref.WeakSet()
        self._checking = None if rule is None else CheckingResolver(rule)
        super().__init__(
            **{**options, "socket_factory": self._make_socket, "resolver": self._checking}
        )
        self._pid = os.getpid()

    def __del__(self, *args: Any, **kwargs: Any) -> None:
        # What the base class does belongs to the loop, which a forked child has not got, and
        # which has ended where it is closed.
        if self._pid == os.getpid() and not self._loop.is_closed():
            super().__del__(*args, **kwargs)

    @property
    def open(self) -> int:
        """How many sockets there are, also those that are not connected yet."""
        with self._sockets_lock:
            return sum(sock.fileno() >= 0 for sock in self._sockets)

    async def connect(self, req: Any, traces: Any, timeout: Any) -> Any:  # noqa: ASYNC109
        """Return a connection, as the base class does, which would connect even if it is closed."""
        if self._closed:
            raise self._refusal()
        try:
            connection = await super().connect(req, traces, timeout)
        except aiohttp.ClientConnectionError:
            if self._closed:  # meanwhile
                raise self._refusal() from None
            raise
        self._connections.add(connection)
        for trace in traces:
            if isinstance(trace._trace_config_ctx, Call):
                trace._trace_config_ctx.leased(connection)
        return connection

    async def close_within(self, timeout: float) -> None:  # noqa: ASYNC109 - it cuts off
        """Close all connections, and cut off those that take longer than `timeout` seconds."""
        transports = self._transports()
        self._tell_readers()
        try:
            async with asyncio.timeout(max(0.0, timeout - _CUT)):
                await self.close()
        except TimeoutError:
            for transport in transports:
                transport.abort()
            await asyncio.sleep(0)  # they end in the loop's next turn
        if self._checking is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(_CUT):
                    await self._checking.close()

    def abandon(self) -> None:
        """Let go of all sockets without the loop, which is closed or another process's.

        Only the descriptors are closed: nothing is sent, and a parent's connections go on.
        """
        transports = self._transports()
        self._closed = True
        self._conns.clear()
        self._acquired.clear()
        for connection in list(self._connections):
            connection._protocol = None
        for transport in transports:
            _silence(transport)
        for sock in list(self._sockets):
            sock.close()

    def _make_socket(self, info: Any) -> socket.socket:
        family, kind, protocol, _, address = info
        # Here and nowhere later it is settled where the connection goes, whatever a name led to
        # before. An address that stands in the URL has not been looked at yet.
        if self._rule is not None and not addresses.allowed(self._rule, address[0]):
            raise RequestRefused("this host's address is none that ADDRESSES allows")
        if self._their_factory is not None:
            sock = self._their_factory(info)
        else:
            sock = socket.socket(family, kind, protocol)
        with self._sockets_lock:
            self._sockets.add(sock)
        return sock

    def _tell_readers(self) -> None:
        # aiohttp wakes nobody who reads from a connection that it closes itself (3.14,
        # client_proto.py, `ResponseHandler.close`): they would wait until they are timed out.
        for connection in list(self._connections):
            payload = getattr(connection.protocol, "_payload", None)
            # One that is complete was an earlier request's, whose owner may yet read it.
            if payload is not None and not payload.is_eof():
                payload.set_exception(self._refusal())

    def _transports(self) -> list[asyncio.Transport]:
        idle = [protocol for queue in self._conns.values() for protocol, _ in queue]
        # A place that is held for a connect has no transport.
        found = [protocol.transport for protocol in (*idle, *self._acquired)]
        return [transport for transport in found if transport is not None]


class CheckingResolver(AbstractResolver):
    """aiohttp's resolver, without the addresses that must not be connected to."""

    def __init__(self, rule: AddressRule) -> None:
        self._rule = rule
        self._resolver = aiohttp.DefaultResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses of a host that are allowed; raise RequestRefused for none."""
        found = await self._resolver.resolve(host, port, family)
        allowed = [each for each in found if addresses.allowed(self._rule, each["host"])]
        if found and not allowed:
            raise RequestRefused("this host has no address that ADDRESSES allows")
        return allowed

    async def close(self) -> None:
        """Release what the resolver holds."""
        await self._resolver.close()


def _silence(transport: Any) -> None:
    """Have a transport forget its socket: it can be closed no more, and would complain."""
    inner = getattr(getattr(transport, "_ssl_protocol", None), "_transport", None)
    for each, name, value in (
        (transport, "_closed", True),  # asyncio/sslproto.py
        (transport, "_sock", None),  # asyncio/selector_events.py
        (inner, "_sock", None),
    ):
        if hasattr(each, name):
            with suppress(AttributeError):
                setattr(each, name, value)

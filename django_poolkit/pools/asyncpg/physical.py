"""What the pool knows of one connection, beside what asyncpg does; and looks that cost nothing."""

from __future__ import annotations

import asyncio
import os
import select
import socket
from contextlib import suppress
from time import monotonic
from typing import Any, Final

import asyncpg
from asyncpg import connect_utils

PROBE: Final = "SELECT"
"""The shortest statement that asyncpg 0.32 bears: it fails on the answer to an empty one."""


# Seconds until the server is asked again to stop a statement; doubled from there on.
ASK_AGAIN: Final = 0.05
CUT_TIMEOUT: Final = 2.0
"""Seconds that a server has to stop what runs on a connection that is being closed."""


class Physical:
    """One connection. Its fields are guarded by the lock of the pool."""

    __slots__ = (
        "closing", "connection", "created_at", "expires_at", "generation", "holder", "pid",
        "poller", "probed_at", "replacing", "restore", "secret", "used_at",
    )  # fmt: skip

    def __init__(self, connection: Any, holder: Any) -> None:
        self.connection: asyncpg.Connection[Any] = connection
        self.holder = holder
        """asyncpg's own place for it in its pool."""
        self.pid: int = connection.get_server_pid()
        self.secret = connection._protocol.backend_secret
        self.created_at = self.used_at = self.probed_at = monotonic()
        """The latter: when it was given back last."""
        self.expires_at = float("inf")
        self.generation = 0
        self.replacing = False
        """Whether another is being connected, which is to take its place."""
        self.restore = ""
        """What has to be run after each reset, because the start-up packet did not bring it."""
        self.closing: asyncio.Future[None] | None = None
        """What closes it, where a statement may run on it."""
        self.poller: select.poll | None = None
        """Looks at its socket."""
        with suppress(OSError, ValueError, AttributeError):
            number = connection._transport.get_extra_info("socket").fileno()
            poller = select.poll()
            poller.register(number, select.POLLIN | select.POLLRDHUP)
            self.poller = poller

    @property
    def quiet(self) -> bool:
        """Whether it is connected, and its socket says nothing: no end of it, and no news."""
        if self.connection.is_closed():
            return False
        return self.poller is None or not self.poller.poll(0)

    async def answers(self, timeout: float) -> bool:
        """Return whether the server answers within `timeout` seconds: one round trip."""
        try:
            await self.connection.execute(PROBE, timeout=max(timeout, 0.001))
        except Exception:  # also asyncpg's own, of a protocol that is in the middle of its end
            return False
        return not self.connection.is_closed()

    def abandon(self) -> None:
        """Close the socket of a connection whose loop is closed: nothing else can be done there.

        Closing it properly would need the loop, and so would asyncio's complaint. A loop that
        stands still is to do the rest when it goes on.
        """
        connection: Any = self.connection
        loop, transport = connection._loop, connection._transport
        connection._pool_holder = None
        connection._aborted = True
        if not loop.is_closed():
            self._hang_up()
            with suppress(RuntimeError, AttributeError):  # it is closed now; it was terminated
                loop.call_soon_threadsafe(connection._protocol.abort)
        inner: Any = getattr(getattr(transport, "_ssl_protocol", None), "_transport", None)
        for each in filter(None, (inner, transport)):
            sock = getattr(each, "_sock", None)
            if sock is not None:  # asyncio/selector_events.py
                if not loop.is_closed():  # the number of the socket will be another's there
                    loop._remove_reader(sock.fileno())
                    loop._remove_writer(sock.fileno())
                each._closing, each._conn_lost = True, 1
                sock.close()
                each._sock = None
            if hasattr(each, "_closed"):  # asyncio/sslproto.py
                with suppress(AttributeError):
                    each._closed = True

    def _hang_up(self) -> None:
        """End it for the server. The socket remains the loop's: uvloop's can be closed there."""
        transport: Any = self.connection._transport
        with suppress(OSError, ValueError, AttributeError):
            number = os.dup(transport.get_extra_info("socket").fileno())
            with socket.socket(fileno=number) as sock:
                sock.shutdown(socket.SHUT_RDWR)

    async def close(self, timeout: float) -> None:
        """Close it, and have the server stop what runs on it. Waits `timeout` seconds at most.

        Whoever comes while it is being closed waits for the same; nobody who goes stops it.
        """
        if self.closing is None:
            self.closing = asyncio.ensure_future(self._close(timeout))
            self.closing.add_done_callback(_seen)
        try:
            await asyncio.shield(self.closing)
        except asyncio.CancelledError:  # the loop is ending, and asyncpg's own request with it
            await self.stop(timeout)
            raise

    async def _close(self, timeout: float) -> None:
        connection: Any = self.connection
        closing = asyncio.ensure_future(connection.close(timeout=timeout))
        closing.add_done_callback(_seen)
        pause = ASK_AGAIN
        try:
            while not (await asyncio.wait({closing}, timeout=pause))[0]:
                # asyncpg asks once. A request that comes between two messages of one statement
                # finds none that runs, and stops none (PostgreSQL's `PostgresMain()`).
                connection._cancel_current_command(asyncio.get_running_loop().create_future())
                pause *= 2
        finally:
            closing.cancel()

    async def stop(self, timeout: float) -> None:
        """Have the server stop what runs on a connection that may be lost, and is not lent again.

        Waits `timeout` seconds at most.
        """
        connection: Any = self.connection
        with suppress(Exception):
            async with asyncio.timeout(timeout):
                await connect_utils._cancel(
                    loop=connection._loop,
                    addr=connection._addr,
                    params=connection._params,
                    backend_pid=self.pid,
                    backend_secret=self.secret,
                )


def _seen(closing: asyncio.Future[None]) -> None:
    # How it ended is nobody's business: who closes it terminates it after that.
    if not closing.cancelled():
        closing.exception()

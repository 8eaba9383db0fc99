"""What a client session has on one event loop, and how it ends with that loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Final

import aiohttp

from django_poolkit.http.connector import Connector


class Opened:
    """A client session of aiohttp, on the event loop that ran when it was made."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        connector: Connector,
        close_timeout: float,
        gone: Callable[[Opened], None],
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.session = session
        self.connector = connector
        self.closing = False
        """Whether it is closed, or about to be."""
        self._close_timeout = close_timeout
        self._gone = gone
        self._keeper = self._keep()

    async def keep(self) -> None:
        """Have the loop close it at its end, if that is one of the usual kind.

        asyncio.run(), servers, async_to_sync() and test runners end the loop's asynchronous
        generators before they close it: one that is suspended here hears of it.
        """
        await anext(self._keeper)

    async def _keep(self) -> AsyncGenerator[None]:
        try:
            yield
        finally:
            self._gone(self)
            if not self.closing:
                self.closing = True
                await self.connector.close_within(self._close_timeout)

    async def close(self) -> None:
        """Close it, on its loop."""
        with suppress(RuntimeError):  # it is being closed already
            await self._keeper.aclose()

    def close_from_thread(self) -> Future[None] | None:
        """Have it closed, from any thread. Return a future, or None for nothing to wait for."""
        if not self.loop.is_running():
            self.abandon()
            return None
        closing = self.close()
        try:
            if _running() is not self.loop:
                return asyncio.run_coroutine_threadsafe(closing, self.loop)
            _closings.add(task := self.loop.create_task(closing))
            task.add_done_callback(_closings.discard)
        except RuntimeError:  # the loop ended meanwhile
            closing.close()
            self.abandon()
        return None

    def abandon(self) -> None:
        """Let go of it without its loop, which is closed, stands still or is another process's."""
        self.closing = True
        self._gone(self)
        self.connector.abandon()
        # There is nothing left that it would wait for: it ends at once, and needs no finalizer.
        with suppress(StopAsyncIteration, StopIteration, RuntimeError):
            self._keeper.aclose().send(None)


# A loop holds its tasks weakly.
_closings: Final[set[asyncio.Task[None]]] = set()


def _running() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None

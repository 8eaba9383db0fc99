"""LISTEN and NOTIFY on a connection of its own, made anew when it is lost, with no silent gap.

PostgreSQL keeps no notification for who is not connected: so whoever listens is told of each time
in which something may have been missed, and can look for himself.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from django_poolkit.pools.asyncpg.connect import summarise
from django_poolkit.pools.asyncpg.errors import PoolClosed
from django_poolkit.pools.chance import chance

if TYPE_CHECKING:
    from django_poolkit.pools.asyncpg.pool import AsyncpgPool

logger = logging.getLogger("django_poolkit.pool")

_FIRST_PAUSE: Final = 0.1
_LONGEST_NAME: Final = 63
# Seconds between two looks whether the connection still lives; and for its answer.
HEARTBEAT: Final = 5.0


@dataclass(frozen=True, slots=True)
class Notification:
    """What a session has told by NOTIFY."""

    channel: str
    payload: str
    pid: int
    """The server process of who told it."""


@dataclass(frozen=True, slots=True)
class Gap:
    """For a time nobody listened, or more came than was kept: something may have been missed."""

    seconds: float
    """How long nobody listened, at most; 0.0 where too much came."""
    reason: str
    """`connection_lost`, or `overflow`."""


class Listener:
    """Listens to channels: `async with pool.listener("orders") as listener: async for ...`.

    Takes no connection of the pool, but one beside it, for as long as the block lasts, or the pool.
    Iterating gives each `Notification`, and a `Gap` wherever some may be missing. Of `keep` that
    have not been taken yet, the oldest go first. It serves one block, on one event loop.
    """

    def __init__(
        self, pool: AsyncpgPool, channels: tuple[str, ...], *, keep: int, heartbeat: float
    ) -> None:
        if not channels or not all(isinstance(name, str) and name for name in channels):
            raise ValueError("name one channel to listen to, or more")
        if any(len(name.encode()) > _LONGEST_NAME for name in channels):
            raise ValueError(
                f"a channel's name has {_LONGEST_NAME} bytes at most: PostgreSQL cuts a longer one"
            )
        if keep < 1 or not heartbeat > 0:
            raise ValueError("keep must be at least 1, and heartbeat above 0 seconds")
        self._pool = pool
        self._channels = channels
        self._keep = keep
        self._heartbeat = heartbeat
        self._found: deque[Notification | Gap] = deque()
        self._early: list[Notification] = []
        """What a connection has told that is still being made."""
        self._news = asyncio.Event()
        self._overflow = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connection: Any = None
        self._task: asyncio.Task[None] | None = None
        self._lost = asyncio.Event()

    @property
    def connected(self) -> bool:
        """Whether it listens at this moment."""
        return self._connection is not None and not self._connection.is_closed()

    async def __aenter__(self) -> Listener:
        """Return when it listens. Raises what the first connect does, and PoolClosed."""
        if self._loop is not None:
            raise RuntimeError("a listener serves one block: make another by pool.listener()")
        self._loop = asyncio.get_running_loop()
        self._check_open()
        with self._pool.lock:
            self._pool.listeners.add(self)
        asked = await self._connect()
        self._check_open()  # it may have been closed meanwhile
        self._tell_early()
        self._task = asyncio.create_task(self._watch(asked))
        self._task.add_done_callback(lambda _: self._news.set())
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        task, self._task = self._task, None
        self._news.set()
        try:
            if task is not None:
                task.cancel()
                await asyncio.wait([task])
            if self._connection is not None:
                with suppress(Exception):
                    await self._connection.close(timeout=self._pool.config.close_timeout)
        finally:  # who is cancelled meanwhile leaves no connection behind
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.terminate()

    async def __aiter__(self) -> AsyncIterator[Notification | Gap]:
        while True:
            yield await self.get()

    async def get(self) -> Notification | Gap:
        """Return the next, as soon as there is one.

        Raises PoolClosed after the block's end, and where the pool was closed.
        """
        while not self._found and not self._overflow:
            if self._task is None or self._task.done():
                whose = "the pool of this listener" if self._pool.ended else "this listener"
                raise PoolClosed(f"{whose} has been closed", pool=self._pool.name)
            self._news.clear()
            await self._news.wait()
        if self._overflow:
            self._overflow = False
            return Gap(0.0, "overflow")
        return self._found.popleft()

    def end_soon(self) -> None:
        """End with the pool: who waits is told. From any thread."""
        loop = self._loop
        if loop is None or loop is asyncio._get_running_loop():
            self._end()
            return
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(self._end)

    def _check_open(self) -> None:
        if self._pool.ended:
            self._end()
            raise PoolClosed(f"pool {self._pool.name!r} is closed", pool=self._pool.name)

    def _end(self) -> None:
        if self._task is not None:
            self._task.cancel()
        if self._connection is not None:
            self._connection.terminate()

    def _tell(self, found: Notification | Gap) -> None:
        if len(self._found) >= self._keep:
            self._found.popleft()
            self._overflow = True  # told before what is left, which came after
        self._found.append(found)
        self._news.set()

    def _tell_early(self) -> None:
        for found in self._early:
            self._tell(found)
        self._early = []

    async def _connect(self) -> float:
        """Make a connection that listens; return a time from which on it does, at the latest."""
        self._early = []
        connection = await self._pool.connector.connect()
        self._pool.connector.made.pop(connection, None)
        try:
            lost = self._lost = asyncio.Event()
            connection.add_termination_listener(lambda _: lost.set())
            for channel in self._channels:
                asked = monotonic()
                async with asyncio.timeout(self._heartbeat):
                    await connection.add_listener(channel, self._heard)
        except BaseException as error:
            connection.terminate()
            if isinstance(error, TimeoutError):
                raise TimeoutError("the server has not answered LISTEN in time") from error
            raise
        self._connection = connection
        return asked

    def _heard(self, connection: Any, pid: int, channel: str, payload: object) -> None:
        found = Notification(channel, str(payload), pid)
        if connection is self._connection:
            self._tell(found)
        else:  # it is to be told after the gap that its connection ends
            self._early.append(found)

    async def _watch(self, heard: float) -> None:
        """Look whether the connection lives; make another one when it does not."""
        pause = 0.0
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._heartbeat):
                    await self._lost.wait()
            asked = monotonic()
            if await self._lives():
                heard, pause = asked, 0.0
                continue
            self._connection.terminate()
            logger.warning("pool=%s event=listener_lost", self._pool.name)
            asked, pause = await self._reconnect(pause)
            self._tell(Gap(monotonic() - heard, "connection_lost"))
            self._tell_early()
            heard = asked

    async def _lives(self) -> bool:
        if not self.connected:
            return False
        try:
            await self._connection.execute("SELECT", timeout=self._heartbeat)
        except Exception:  # silent, or in the middle of its end
            return False
        return self.connected

    async def _reconnect(self, pause: float) -> tuple[float, float]:
        """Connect anew, after a pause; return what `_connect()` does, and the pause after this.

        That is for a server that lets one in and ends the connection as soon as it listens.
        """
        while True:
            if pause:
                await asyncio.sleep(pause * chance.uniform(0.75, 1.25))
            pause = min(max(pause * 2, _FIRST_PAUSE), self._pool.config.reconnect_cap)
            try:
                return await self._connect(), pause
            except Exception as error:
                text = summarise(error, *self._pool.secrets())
                logger.warning("pool=%s event=connect_failed error=%s", self._pool.name, text)

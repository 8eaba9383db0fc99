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

    Takes no connection of the pool, but one beside it, for as long as the block lasts. Iterating
    gives each `Notification`, and a `Gap` wherever some may be missing. Of `keep` that have not
    been taken yet, the oldest go first.
    """

    def __init__(
        self, pool: AsyncpgPool, channels: tuple[str, ...], *, keep: int, heartbeat: float
    ) -> None:
        if not channels or not all(isinstance(name, str) and name for name in channels):
            raise ValueError("name one channel to listen to, or more")
        if keep < 1 or not heartbeat > 0:
            raise ValueError("keep must be at least 1, and heartbeat above 0 seconds")
        self._pool = pool
        self._channels = channels
        self._keep = keep
        self._heartbeat = heartbeat
        self._found: deque[Notification | Gap] = deque()
        self._news = asyncio.Event()
        self._overflow = False
        self._connection: Any = None
        self._task: asyncio.Task[None] | None = None
        self._lost = asyncio.Event()

    @property
    def connected(self) -> bool:
        """Whether it listens at this moment."""
        return self._connection is not None and not self._connection.is_closed()

    async def __aenter__(self) -> Listener:
        """Return when it listens. Raises what the first connect does, and PoolClosed."""
        if self._pool.ended:
            raise PoolClosed(f"pool {self._pool.name!r} is closed", pool=self._pool.name)
        await self._connect()
        self._task = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(Exception):
                await connection.close(timeout=self._pool.config.close_timeout)
        self._news.set()

    async def __aiter__(self) -> AsyncIterator[Notification | Gap]:
        while True:
            yield await self.get()

    async def get(self) -> Notification | Gap:
        """Return the next, as soon as there is one. Raises PoolClosed after the block's end."""
        while not self._found and not self._overflow:
            if self._task is None:
                raise PoolClosed("this listener has been closed", pool=self._pool.name)
            self._news.clear()
            await self._news.wait()
        if self._overflow:
            self._overflow = False
            return Gap(0.0, "overflow")
        return self._found.popleft()

    def _tell(self, found: Notification | Gap) -> None:
        if len(self._found) >= self._keep:
            self._found.popleft()
            self._overflow = True  # told before what is left, which came after
        self._found.append(found)
        self._news.set()

    async def _connect(self) -> None:
        connection = await self._pool.connector.connect()
        self._pool.connector.made.pop(connection, None)
        try:
            lost = self._lost = asyncio.Event()
            connection.add_termination_listener(lambda _: lost.set())
            for channel in self._channels:
                await connection.add_listener(channel, self._heard)
        except BaseException:
            connection.terminate()
            raise
        self._connection = connection

    def _heard(self, _: Any, pid: int, channel: str, payload: object) -> None:
        self._tell(Notification(channel, str(payload), pid))

    async def _watch(self) -> None:
        """Look whether the connection lives; make another one when it does not."""
        heard = monotonic()
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._heartbeat):
                    await self._lost.wait()
            if await self._lives():
                heard = monotonic()
                continue
            self._connection.terminate()
            logger.warning("pool=%s event=listener_lost", self._pool.name)
            await self._reconnect()
            self._tell(Gap(monotonic() - heard, "connection_lost"))
            heard = monotonic()

    async def _lives(self) -> bool:
        if not self.connected:
            return False
        try:
            await self._connection.execute("SELECT", timeout=self._heartbeat)
        except Exception:  # silent, or in the middle of its end
            return False
        return self.connected

    async def _reconnect(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            try:
                await self._connect()
                return
            except Exception as error:
                text = summarise(error, *self._pool.secrets())
                logger.warning("pool=%s event=connect_failed error=%s", self._pool.name, text)
            await asyncio.sleep(pause * chance.uniform(0.75, 1.25))
            pause = min(pause * 2, self._pool.config.reconnect_cap)

"""What tests of calls and blocks share: statements, as a task awaits them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from django_poolkit.aio import aatomic, bridged
from django_poolkit.pools.postgres import ConnectionPool
from tests.app.models import Item
from tests.backends.transaction_mode.support import backend, create, scalar

Pooled = Callable[..., ConnectionPool]
Run = Callable[[Callable[[], Any]], Any]

acreate = bridged(create)
apid = bridged(backend)
ascalar = bridged(scalar)
aslow = bridged(lambda: scalar("SELECT pg_sleep(60)"))


def count() -> int:
    return Item.objects.count()


class Orphan:
    """A task with a block of its own, begun in another one, that goes on until it is told to end.

    To be made where a loop runs.
    """

    def __init__(self) -> None:
        self.inside, self.leaves = asyncio.Event(), asyncio.Event()
        """Set when its block has begun, and when that of `block()` is about to end."""
        self._go = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def begin(self) -> None:
        """Start the task."""
        self._tasks.append(asyncio.create_task(self._work()))

    async def block(self) -> None:
        """Start it within a block, and leave that while it is in its own."""
        async with aatomic():
            await acreate("block")
            self.begin()
            await self.inside.wait()
            self.leaves.set()

    async def end(self) -> object:
        """Let it go on, and return what became of it."""
        self._go.set()
        (outcome,) = await asyncio.gather(*self._tasks, return_exceptions=True)
        return outcome

    async def _work(self) -> None:
        async with aatomic():
            await acreate("orphan")
            self.inside.set()
            await self._go.wait()

"""Websockets on the loop: who stays connected for hours holds nothing between two messages."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from django_poolkit.aio import aatomic
from django_poolkit.asgi import Poolkit
from tests.aio.hops import counted
from tests.aio.orm_support import on_loop
from tests.aio.support import Pooled, Run
from tests.app.models import Item
from tests.backends.transaction_mode.support import PATIENCE, Server, connection
from tests.pools.postgres.tasks import until
from tests.request_end.drive import scope

pytestmark = pytest.mark.core


class Client:
    """One that is connected: what it says, and what it is told."""

    def __init__(self) -> None:
        self._says: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._told: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.receive = self._says.get

    async def send(self, message: dict[str, Any]) -> None:
        """Be told something."""
        await self._told.put(message)

    async def says(self, text: str) -> str:
        """Say something, and return the answer."""
        await self._says.put({"type": "websocket.receive", "text": text})
        async with asyncio.timeout(PATIENCE):
            return str((await self._told.get())["text"])

    async def leaves(self) -> None:
        """Hang up."""
        await self._says.put({"type": "websocket.disconnect", "code": 1001})


async def consumer(scope: Any, receive: Any, send: Any) -> None:
    """Note what is said, and answer how much that is."""
    while (message := await receive())["type"] == "websocket.receive":
        async with aatomic():
            await Item.objects.acreate(name=message["text"])
        item = await Item.objects.aget(name=message["text"])
        names = [each.name async for each in Item.objects.filter(pk=item.pk)]
        await send({"type": "websocket.send", "text": f"{await Item.objects.acount()} {names[0]}"})


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_many_are_served_by_few_connections_and_no_thread(
    pooled: Pooled, run_on_each: Run, mode: str
) -> None:
    pool = pooled(mode=mode, max_size=2)
    app = Poolkit(consumer)

    async def main() -> None:
        clients = [Client() for _ in range(20)]
        served = [
            asyncio.create_task(app(scope("/", kind="websocket"), each.receive, each.send))
            for each in clients
        ]
        for turn in range(2):
            said = [f"{number} says {turn}" for number in range(20)]
            answers = await asyncio.gather(
                *(client.says(text) for client, text in zip(clients, said, strict=True))
            )
            assert [answer.partition(" ")[2] for answer in answers] == said
            assert pool.stats().used == 0
        for client in clients:
            await client.leaves()
        await asyncio.gather(*served)

    with on_loop(), counted() as hops:
        run_on_each(main)
    assert hops == []
    assert Item.objects.count() == 40
    Item.objects.all().delete()
    connection.close()


def test_a_consumer_that_is_cancelled_leaves_nothing(
    pooled: Pooled, server: Server, run_on_each: Run
) -> None:
    pool = pooled(max_size=1)

    async def within(scope: Any, receive: Any, send: Any) -> None:
        async with aatomic():
            await Item.objects.acreate(name="lost")
            await receive()

    async def main() -> None:
        client = Client()
        asked = scope("/", kind="websocket")
        task = asyncio.create_task(Poolkit(within)(asked, client.receive, client.send))
        await until(lambda: "idle in transaction" in server.backends.values())
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert pool.stats().used == 0
        assert server.names == []

    with on_loop():
        run_on_each(main)

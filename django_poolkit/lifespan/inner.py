"""The lifespan of an application within ours, as a resource."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from django_poolkit.lifespan.base import ResourceError

Application = Callable[[Any, Any, Any], Awaitable[None]]


class _Conversation:
    """The server's side of the protocol."""

    def __init__(self) -> None:
        self.asked = False
        self.said: str = ""
        """The type of the last message that the application sent."""
        self._questions: asyncio.Queue[dict[str, str]] = asyncio.Queue()
        self._heard = asyncio.Event()

    async def receive(self) -> dict[str, str]:
        self.asked = True
        return await self._questions.get()

    async def send(self, message: Any) -> None:
        self.said = message["type"]
        self._heard.set()

    async def ask(self, question: str, task: asyncio.Future[None]) -> None:
        """Send a message, and wait for the answer or for the application's end."""
        self._heard.clear()
        self._questions.put_nowait({"type": question})
        answer = asyncio.ensure_future(self._heard.wait())
        either: set[asyncio.Future[Any]] = {answer, task}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            answer.cancel()


@asynccontextmanager
async def running(app: Application, scope: Any) -> AsyncIterator[None]:
    """Start an application, and stop it in the end, if it handles the lifespan protocol.

    One that raises before it asks for a message, as Django's does, or returns, does not.
    """
    talk = _Conversation()
    task = asyncio.ensure_future(app(scope, talk.receive, talk.send))
    try:
        await talk.ask("lifespan.startup", task)
        error = task.exception() if task.done() and not task.cancelled() else None
        if talk.said == "lifespan.startup.failed" or (error is not None and talk.asked):
            raise ResourceError("the application's own lifespan.startup failed") from error
        yield
        if not task.done():
            await talk.ask("lifespan.shutdown", task)
            if talk.said == "lifespan.shutdown.failed":
                raise ResourceError("the application's own lifespan.shutdown failed")
    finally:
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # looked at, so that nobody complains that it was not

"""The lifespan of an application within ours, as a resource."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

from django_poolkit.lifespan.base import ResourceError, said_of, stack_of

logger = logging.getLogger("django_poolkit.lifespan")

NAME: Final = "asgi:app"
"""What it is called among the resources."""
# Seconds for an application to end that has told of its failure.
_FAREWELL: Final = 1.0

Application = Callable[[Any, Any, Any], Awaitable[None]]


class _Conversation:
    """The server's side of the protocol."""

    def __init__(self) -> None:
        self.asked = False
        """Whether the application has asked for a message."""
        self.said = ""
        """The type of the last one that it sent."""
        self._questions: asyncio.Queue[dict[str, str]] = asyncio.Queue()
        self._answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def receive(self) -> dict[str, str]:
        self.asked = True
        return await self._questions.get()

    async def send(self, message: Any) -> None:
        self.said = message["type"]
        if not self._answer.done():
            self._answer.set_result(None)

    async def ask(self, question: str, task: asyncio.Task[None]) -> None:
        """Send a message, and wait for the answer or for the application's end."""
        self._answer = asyncio.get_running_loop().create_future()
        self._questions.put_nowait({"type": question})
        await asyncio.wait({self._answer, task}, return_when=asyncio.FIRST_COMPLETED)


@asynccontextmanager
async def running(app: Application, scope: Any) -> AsyncIterator[None]:
    """Start an application, and stop it in the end, if it handles the lifespan protocol.

    One that raises before it asks for a message, as Django's does, or returns, does not. One that
    raises later is told of at once, and is not started anew: it may not be made for that.
    """
    talk = _Conversation()
    serving: Any = app(scope, talk.receive, talk.send)
    task: asyncio.Task[None] = asyncio.get_running_loop().create_task(serving)
    try:
        await talk.ask("lifespan.startup", task)
        await _look_for_failure(talk, task, "lifespan.startup")
        if not task.done():
            task.add_done_callback(_tell_of_end)
        try:
            yield
        finally:
            task.remove_done_callback(_tell_of_end)
        if not task.done():
            await talk.ask("lifespan.shutdown", task)
        await _look_for_failure(talk, task, "lifespan.shutdown")
    finally:
        task.cancel()
        await asyncio.wait({task})
        _error_of(task)  # looked at, so that nobody complains that it was not


async def _look_for_failure(talk: _Conversation, task: asyncio.Task[None], question: str) -> None:
    """Raise ResourceError if the application says that it failed, or raised where it had to say."""
    failed = talk.said == f"{question}.failed"
    if failed:  # of what comes as an exception
        await asyncio.wait({task}, timeout=_FAREWELL)
    error = _error_of(task)
    if failed or (error is not None and talk.asked):
        raise ResourceError(f"the application's own {question} failed") from error


def _tell_of_end(task: asyncio.Task[None]) -> None:
    if (error := _error_of(task)) is not None:
        what = said_of(error), stack_of(error)
        logger.error("resource=%s event=ended error=%s\n%s", NAME, *what)


def _error_of(task: asyncio.Task[None]) -> BaseException | None:
    return task.exception() if task.done() and not task.cancelled() else None

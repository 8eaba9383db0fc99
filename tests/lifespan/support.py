"""Resources that write down what happens to them, and tests that run on an event loop."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from django_poolkit import lifespan
from django_poolkit.conf.lifespan import LifespanConfig
from django_poolkit.lifespan.base import Resource
from django_poolkit.lifespan.declared import Declared
from django_poolkit.lifespan.protocol import CHANGES
from django_poolkit.lifespan.span import Span

SECRET = "s3same"
_OPTIONS = ("required", "start_timeout", "stop_timeout")


def looped(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an async test on a loop of its own. What it leaves running is its failure."""

    @functools.wraps(test)
    def run(*arguments: Any, **fixtures: Any) -> None:
        async def main() -> None:
            async with asyncio.timeout(30):
                await test(*arguments, **fixtures)
            left = asyncio.all_tasks() - {asyncio.current_task()}
            assert not left, left

        asyncio.run(main())

    return run


async def until(predicate: Callable[[], object]) -> None:
    """Wait for a fact on the loop."""
    async with asyncio.timeout(10):
        while not predicate():  # noqa: ASYNC110 - whatever brings it about
            await asyncio.sleep(0.001)


class Diary:
    """Makes resources, and writes down when they are opened and closed."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.tasks: dict[str, Any] = {}

    def resource(
        self,
        name: str,
        *,
        opening: Any = None,
        closing: Any = None,
        tries: int = 0,
        **options: Any,
    ) -> Resource[str]:
        """Return a resource. `opening`, `closing`: `fail`, `hang`, `stubborn` or seconds.

        The first so many `tries` fail.
        """
        failures = iter(range(tries))

        @asynccontextmanager
        async def enter() -> AsyncIterator[str]:
            self.events.append(f"opening {name}")
            self.tasks[name] = asyncio.current_task()
            await go_wrong(opening)
            if next(failures, None) is not None:
                raise ConnectionError(SECRET)
            self.events.append(f"open {name}")
            try:
                yield name.upper()
            finally:
                self.events.append(f"closing {name}")
                assert self.tasks[name] is asyncio.current_task()
                await go_wrong(closing)
                self.events.append(f"close {name}")

        return Resource(name=name, enter=enter, **options)

    def declare(self, name: str, **ways: Any) -> Declared[str]:
        """Make a resource, and declare it as one of the project."""
        options = {key: ways.pop(key) for key in list(ways) if key in _OPTIONS}
        made = self.resource(name, **ways)
        return lifespan.resource(name=name, **options)(made.enter)

    def said(self, word: str) -> list[str]:
        """Return the names of those to which something happened, as `open` or `close`."""
        pairs = [event.split() for event in self.events]
        return [name for event, name in pairs if event == word]


async def go_wrong(way: Any) -> None:
    """Fail, hang, or take some time."""
    if way == "fail":
        raise ConnectionError(SECRET)
    if way == "hang":
        await asyncio.sleep(3600)
    if way == "stubborn":
        for _ in range(3):
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                continue
    if isinstance(way, float):
        await asyncio.sleep(way)


def span_of(**budgets: float) -> Span:
    """Return a span with budgets of its own."""
    return Span(LifespanConfig(**budgets))  # type: ignore[arg-type]


class Wire:
    """The server's side of the lifespan protocol, message by message."""

    def __init__(self, app: Any, **scope: Any) -> None:
        self.state: dict[str, Any] = {}
        self.said: list[Any] = []
        self._questions: asyncio.Queue[Any] = asyncio.Queue()
        self._answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        whole = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": self.state, **scope}
        whole[CHANGES] = {"pools": "lazy", **scope.get(CHANGES, {})}
        self.task = asyncio.get_running_loop().create_task(
            app(whole, self._questions.get, self._send)
        )

    async def _send(self, message: Any) -> None:
        self.said.append(message)
        if not self._answer.done():
            self._answer.set_result(None)

    async def ask(self, question: str) -> Any:
        """Send a message; return the answer, None where the application ends without one."""
        self._answer = asyncio.get_running_loop().create_future()
        self._questions.put_nowait({"type": f"lifespan.{question}"})
        await asyncio.wait({self._answer, self.task}, return_when=asyncio.FIRST_COMPLETED)
        return self.said[-1] if self._answer.done() else None

"""An application with its lifespan, for tests: started, asked by Django's test client, stopped."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

from django.test import AsyncClient

from django_poolkit.lifespan import ResourceError, course
from django_poolkit.lifespan.protocol import CHANGES

T = TypeVar("T")

Application = Callable[[Any, Any, Any], Awaitable[None]]


class StateClient(AsyncClient):
    """Django's asynchronous test client, whose requests carry the state of a lifespan."""

    def __init__(self, state: dict[str, Any], **defaults: Any) -> None:
        super().__init__(**defaults)
        self._state = state

    def _base_scope(self, **request: Any) -> dict[str, Any]:
        # Django 6.1 would take `AsyncClient(state=…)` for a header (test/client.py).
        base: dict[str, Any] = super()._base_scope(**request)  # type: ignore[misc]
        return {**base, "state": dict(self._state)}


class AsyncSite:
    """Runs an ASGI application's lifespan for the length of an `async with` block.

    `changes` are to `POOLKIT["LIFESPAN"]`, by lower-case names. The pools of `DATABASES` are left
    to their first use unless `pools` says otherwise.

    Raises ResourceError where the start fails, or the application handles no lifespan.
    """

    def __init__(self, app: Application, **changes: Any) -> None:
        self.app = app
        self.state: dict[str, Any] = {}
        """What is open, by name, as a server hands it to each request."""
        self.client = StateClient(self.state)
        """Django's client for the views of the project, on the loop of the lifespan."""
        self._changes = {"pools": "lazy", **changes}
        self._questions: asyncio.Queue[dict[str, str]] = asyncio.Queue()
        self._answer: asyncio.Future[Any] | None = None
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        scope = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": self.state,
            CHANGES: self._changes,
        }
        serving: Any = self.app(scope, self._questions.get, self._send)
        self._task = asyncio.get_running_loop().create_task(serving)
        answer = await self._ask(self._task, "lifespan.startup")
        if answer is None or answer["type"] != "lifespan.startup.complete":
            await self._leave(self._task)
            said = "it handles no lifespan" if answer is None else answer.get("message", "")
            raise ResourceError(f"the application did not start: {said}")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._task is not None:
            await self._ask(self._task, "lifespan.shutdown")
            await self._leave(self._task)

    async def _send(self, message: Any) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(message)

    async def _ask(self, task: asyncio.Task[None], question: str) -> Any:
        """Send a message; return the answer, None where the application has ended without."""
        answer = self._answer = asyncio.get_running_loop().create_future()
        self._questions.put_nowait({"type": question})
        await asyncio.wait({answer, task}, return_when=asyncio.FIRST_COMPLETED)
        return answer.result() if answer.done() else None

    async def _leave(self, task: asyncio.Task[None]) -> None:
        task.cancel()
        await asyncio.wait({task})
        # In a server the process would end. Here the next test is to find all as it was.
        course.forget()
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error


class Site:
    """Runs an ASGI application's lifespan for the length of a `with` block.

    Its event loop runs in the calling thread, while `client` waits for an answer and in `run()`.
    Synchronous views are in another thread, and so on other database connections than the test.
    Raises as `AsyncSite` does.
    """

    def __init__(self, app: Application, **changes: Any) -> None:
        self._app = app
        self._changes = changes
        self._runner = asyncio.Runner()

    def __enter__(self) -> Self:
        try:
            self._site = self.run(self._enter())
        except BaseException:
            self._runner.close()
            raise
        self.client = SyncClient(self._site.client, self.run)
        """Django's client for the views of the project, with methods that wait."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.run(self._site.__aexit__(kind, error, trace))
        finally:
            self._runner.close()

    @property
    def state(self) -> dict[str, Any]:
        """What is open, by name, as a server hands it to each request."""
        return self._site.state

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop of the lifespan, and return its result."""
        return self._runner.run(work)

    async def _enter(self) -> AsyncSite:
        return await AsyncSite(self._app, **self._changes).__aenter__()


class SyncClient:
    """Django's asynchronous test client for synchronous tests: `client.get("/")`."""

    def __init__(self, client: AsyncClient, run: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self._client = client
        self._run = run

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        if not inspect.iscoroutinefunction(found):
            return found
        return lambda *arguments, **options: self._run(found(*arguments, **options))

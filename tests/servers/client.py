"""Those who ask the site: one request, many at once, and so many each second."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Coroutine, Iterator
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

PATIENCE = 60.0


class Reply(NamedTuple):
    """What became of a request."""

    status: int
    """0 where no answer came."""
    body: str
    """Of the answer, or why there is none."""
    started: float
    """On the monotonic clock."""
    seconds: float

    @property
    def pid(self) -> int:
        """The worker that answered."""
        return int(json.loads(self.body)["pid"])


class Client:
    """Asks a site over a UNIX socket, from a thread with an event loop of its own."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="client")
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def get(self, target: str) -> Reply:
        """Ask once, and wait for the answer."""
        return self.start(target).result(PATIENCE)

    def start(self, target: str) -> Future[Reply]:
        """Ask once."""
        return self.submit(self.ask(target))

    def submit(self, what: Coroutine[Any, Any, Any]) -> Future[Any]:
        """Run a coroutine in the thread."""
        return asyncio.run_coroutine_threadsafe(what, self._loop)

    async def ask(self, target: str) -> Reply:
        """Ask once."""
        started = time.monotonic()
        try:
            async with asyncio.timeout(PATIENCE):
                status, body = await self._exchange(target)
        except (OSError, TimeoutError, ValueError) as error:
            status, body = 0, repr(error)
        return Reply(status, body, started, time.monotonic() - started)

    async def _exchange(self, target: str) -> tuple[int, str]:
        reader, writer = await asyncio.open_unix_connection(self._path)
        try:
            writer.write(f"GET {target} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
            head, _, body = (await reader.read(-1)).partition(b"\r\n\r\n")
        finally:
            writer.close()
        if not head:
            raise ConnectionResetError("the server hung up")
        if b"transfer-encoding: chunked" in head.lower():  # of uvicorn on httptools, even so
            body = b"".join(_chunks(body))
        return int(head.split()[1]), body.decode()


def _chunks(body: bytes) -> Iterator[bytes]:
    """Give the chunks of a body. Raises ValueError where it is not whole."""
    while True:
        size, _, body = body.partition(b"\r\n")
        length = int(size, 16)
        if len(body) < length + 2:
            raise ValueError("the server hung up in the middle of a chunk")
        if not length:
            return
        yield body[:length]
        body = body[length + 2 :]


class Load:
    """Requests at a steady rate, however long each takes; within a `with` block."""

    def __init__(self, client: Client, target: str, rate: float) -> None:
        self._client = client
        self._target = target
        self._pause = 1 / rate
        self._stopped = asyncio.Event()
        self.replies: list[Reply] = []

    def __enter__(self) -> Self:
        self._running = self._client.submit(self._run())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._client._loop.call_soon_threadsafe(self._stopped.set)
        self._running.result(2 * PATIENCE)

    @property
    def failed(self) -> list[Reply]:
        """The requests that were not answered as they should be."""
        return [reply for reply in self.replies if reply.status != 200]

    async def _run(self) -> None:
        begun = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            count = 0
            while not self._stopped.is_set():
                tasks.create_task(self._one())
                count += 1
                # Those that are late are made up for.
                await asyncio.sleep(begun + count * self._pause - time.monotonic())

    async def _one(self) -> None:
        self.replies.append(await self._client.ask(self._target))

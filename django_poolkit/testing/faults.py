"""Real faults on the loopback interface: networks that stall, refuse, reset and dawdle."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self, TypeVar

from django_poolkit.testing.waiting import wait_until

__all__ = ["SilentServer", "Snare", "TCPProxy", "silent_server", "wait_until"]

Answer = TypeVar("Answer")

_LOOPBACK = "127.0.0.1"
_CHUNK = 65_536
_CHUNKS_ON_THE_WAY = 64
_PATIENCE = 10.0
# With this linger a close() sends RST instead of FIN: what a crashed peer does.
_RESET = struct.pack("ii", 1, 0)


class SilentServer(NamedTuple):
    """Where a server listens that never says a word."""

    host: str
    port: int


@contextmanager
def silent_server() -> Iterator[SilentServer]:
    """Run a server that accepts connections and never answers.

    The kernel accepts for it (up to some hundred connections); what clients send
    stays unread. At the end of the block they are reset.
    """
    with socket.socket() as listener:
        listener.bind((_LOOPBACK, 0))
        listener.listen(512)
        yield SilentServer(_LOOPBACK, listener.getsockname()[1])


class Snare:
    """What a client sends, at which a proxy cuts its connection with a reset.

    `where` is `before`: what holds `text` does not reach the server; or `after`: the server
    gets it, and nothing of its answer reaches the client. `times` is how often.
    """

    def __init__(self, text: str, where: Literal["before", "after"], times: int = 1) -> None:
        self.text = text.encode()
        self.where = where
        self.left = times
        """How often it is still to be done."""
        self.sent = 0
        """How often clients have sent it."""
        self.forwarded = 0
        """How often it was passed on to the server."""


class _Link:
    """One client's connection and the server's that belongs to it."""

    def __init__(self, client: asyncio.StreamWriter) -> None:
        self.client = client
        self.server: asyncio.StreamWriter | None = None
        self.asks = False
        """True if the latest data came from the client."""
        self.ensnared = False
        """Whether no answer is to reach the client any more."""

    def cut(self) -> None:
        for writer in (self.client, self.server):
            if writer is not None:
                end = writer.get_extra_info("socket")
                with contextlib.suppress(OSError):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                writer.transport.abort()


class TCPProxy:
    """A proxy in front of a server, whose network fails on request.

    `host` and `port` are where clients connect. A thread of its own runs it from
    the construction to `close()`. The verbs may be called from any other thread;
    they block until the fault is in force.
    """

    host = _LOOPBACK

    def __init__(self, target_host: str, target_port: int) -> None:
        self.latency = 0.0
        """Seconds that data takes in each direction; holds for what arrives next."""
        self.connections = 0
        """How many connections were accepted since the start."""
        self.round_trips = 0
        """How many times clients asked: sent data first, or after data of the server."""
        self.client_bytes = 0
        """How many bytes clients sent."""
        self.snare: Snare | None = None
        """At what to cut; holds for what arrives next."""
        self._target = (target_host, target_port)
        self._links: set[_Link] = set()
        self._flows = asyncio.Event()
        self._flows.set()
        self._fresh: set[socket.socket] = set()  # accepted, and no link yet
        self._tasks: set[asyncio.Task[None]] = set()
        self._listening = False
        self._place = self._bind(0)
        self.port: int = self._place.getsockname()[1]
        self._closed = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="poolkit-proxy", daemon=True
        )
        self._thread.start()
        self.accept()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def open_connections(self) -> int:
        """How many connections are open now."""
        return len(self._links)

    def stall(self) -> None:
        """Accept on and forward nothing: the network of a machine that hangs."""
        self._do(self._set_flowing(False))

    def resume(self) -> None:
        """Forward again; what was sent meanwhile arrives now."""
        self._do(self._set_flowing(True))

    def refuse(self) -> None:
        """Refuse new connections; those that are open go on."""
        self._do(self._stop_listening())

    def accept(self) -> None:
        """Take new connections again, on the same port."""
        self._do(self._listen())

    def drop(self) -> int:
        """Cut all open connections with a reset (RST); return how many."""
        return self._do(self._cut_all())

    def close(self) -> None:
        """Cut everything and end the thread. A second call does nothing."""
        if self._closed:
            return
        self._do(self._shut())
        self._closed = True
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        if self._closed:
            work.close()
            raise RuntimeError("the proxy is closed")
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_PATIENCE)

    # From here on everything runs in the proxy's own thread.

    @staticmethod
    def _bind(port: int) -> socket.socket:
        """Hold a port: bound but not listening it refuses, and nobody else gets it."""
        place = socket.socket()
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        place.bind((_LOOPBACK, port))
        return place

    async def _set_flowing(self, flowing: bool) -> None:
        if flowing:
            self._flows.set()
        else:
            self._flows.clear()

    async def _listen(self) -> None:
        if not self._listening:
            self._listening = True
            self._place.listen(512)
            self._place.setblocking(False)
            self._loop.add_reader(self._place, self._accept_all)

    async def _stop_listening(self) -> None:
        if self._listening:
            self._listening = False
            self._loop.remove_reader(self._place)
            self._place.close()
            self._place = self._bind(self.port)

    def _accept_all(self) -> None:
        # Not asyncio's server: it loses what it has accepted as it is closed.
        while True:
            try:
                client, _ = self._place.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            client.setblocking(False)
            self._fresh.add(client)
            self._tasks.add(task := self._loop.create_task(self._welcome(client)))
            task.add_done_callback(self._tasks.discard)

    async def _welcome(self, client: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=client, limit=_CHUNK)
        self._fresh.discard(client)
        await self._serve(reader, writer)

    async def _cut_all(self) -> int:
        cut = list(self._links)
        for link in cut:
            link.cut()
        self._links.clear()
        return len(cut)

    async def _shut(self) -> None:
        await self._stop_listening()
        self._place.close()
        await self._cut_all()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        for client in self._fresh:  # whose task was cancelled before it began
            client.close()

    async def _serve(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        self.connections += 1
        link = _Link(client)
        self._links.add(link)
        finished = False
        try:
            await self._flows.wait()
            answers, link.server = await asyncio.open_connection(*self._target, limit=_CHUNK)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._forward(reader, link.server, link, asks=True))
                both.create_task(self._forward(answers, client, link, asks=False))
            # Not cut: a reset would overtake the last words on their way.
            link.server.close()
            client.close()
            finished = True
        except* OSError:
            pass  # one end is gone: the other learns it by a reset
        finally:
            if not finished:
                link.cut()
            self._links.discard(link)

    async def _forward(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, link: _Link, *, asks: bool
    ) -> None:
        """Carry one direction to its end, each piece `latency` seconds after it came."""
        loop = asyncio.get_running_loop()
        waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_CHUNKS_ON_THE_WAY)

        async def deliver() -> None:
            while True:
                due, data = await waiting.get()
                await asyncio.sleep(max(0.0, due - loop.time()))
                await self._flows.wait()
                if not data:
                    if writer.can_write_eof():
                        writer.write_eof()
                    return
                writer.write(data)
                await writer.drain()

        async def collect() -> None:
            data = b"-"
            while data:
                data = await reader.read(_CHUNK)
                if data:
                    self._count(link, len(data), asks=asks)
                    self._look(link, data, asks=asks)
                await waiting.put((loop.time() + self.latency, data))

        async with asyncio.TaskGroup() as pair:
            pair.create_task(deliver())
            pair.create_task(collect())

    def _count(self, link: _Link, size: int, *, asks: bool) -> None:
        if asks:
            self.client_bytes += size
            self.round_trips += not link.asks
        link.asks = asks

    def _look(self, link: _Link, data: bytes, *, asks: bool) -> None:
        """Raise ConnectionResetError where a snare cuts."""
        if link.ensnared and not asks:
            raise ConnectionResetError
        snare = self.snare
        if snare is None or not asks or not (count := data.count(snare.text)):
            return
        snare.sent += count
        if snare.left:
            snare.left -= 1
            if snare.where == "before":
                raise ConnectionResetError
            link.ensnared = True
        snare.forwarded += count

"""A network that forgets: connections from before a moment are dead, and nobody is told.

So it is behind a firewall or a NAT that drops what was idle, and after an address has moved to
another machine. New connections are passed on as ever.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Coroutine
from typing import Any, Final, Self

_CHUNK: Final = 65_536
_PATIENCE: Final = 10.0


class _Link:
    """A client's connection and the server's that belongs to it."""

    def __init__(self, *ends: asyncio.StreamReader | asyncio.StreamWriter) -> None:
        # Readers, too: asyncio ends a connection whose reader nobody has any more.
        self.ends = ends
        self.forgotten = False
        self.work: asyncio.Future[Any] | None = None

    def abort(self) -> None:
        for end in self.ends:
            if isinstance(end, asyncio.StreamWriter):
                end.transport.abort()


class Hole:
    """A proxy on loopback in front of a server. Use as a context; a thread of its own runs it."""

    host = "127.0.0.1"

    def __init__(self, target_host: str, target_port: int) -> None:
        self._target = target_host, target_port
        self._links: set[_Link] = set()
        self._place = socket.create_server((self.host, 0), backlog=512)
        self.port: int = self._place.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="hole", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._do(asyncio.start_server(self._serve, sock=self._place))
        return self

    def __exit__(self, *error: object) -> None:
        self._do(self._shut())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def forget(self) -> int:
        """Forward nothing more of the connections there are, without a word; return how many."""
        return int(self._do(self._forget()))

    def _do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_PATIENCE)

    # From here on everything runs in the thread of the loop.

    async def _serve(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        try:
            answers, server = await asyncio.open_connection(*self._target)
        except OSError:
            client.transport.abort()
            return
        link = _Link(reader, client, answers, server)
        self._links.add(link)
        # Not in this task: asyncio closes the connection of a handler that is cancelled.
        link.work = asyncio.gather(_carry(reader, server), _carry(answers, client))
        try:
            await link.work
        except (OSError, asyncio.CancelledError):
            pass  # one end is gone, or all is over, or it has been forgotten
        finally:
            if not link.forgotten:
                self._links.discard(link)
                link.abort()

    async def _forget(self) -> int:
        links = [link for link in self._links if not link.forgotten]
        for link in links:
            link.forgotten = True
            if link.work is not None:
                link.work.cancel()
        await asyncio.sleep(0)
        return len(links)

    async def _shut(self) -> None:
        self._server.close()
        for link in list(self._links):
            if link.work is not None:
                link.work.cancel()
            link.abort()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.wait(others, timeout=_PATIENCE / 2) if others else None


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Carry one direction to its end."""
    while data := await reader.read(_CHUNK):
        writer.write(data)
        await writer.drain()
    raise ConnectionResetError  # one end hung up: so does the other

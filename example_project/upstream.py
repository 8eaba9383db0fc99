"""A supplier's API that takes its time: `python -m example_project.upstream FD SECONDS`.

It answers every GET after the same wait, serves any number at once, and keeps connections until
its clients hang up. `/peak` says how many waited at once, `/connections` how many connections have
come. Standard library only.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import sys
import zlib

PEAK = "/peak"
CONNECTIONS = "/connections"


class Supplier:
    """Answers every request after the same wait; counts who waits, and who connects."""

    def __init__(self, wait: float) -> None:
        self._wait = wait
        self._waiting = 0
        self._peak = 0
        self._connections = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection, until its client wants no more."""
        counted = False
        # Whoever hangs up first, or sends too much, is no concern of the others.
        with contextlib.suppress(
            ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError
        ):
            last = False
            while not last:
                head = await reader.readuntil(b"\r\n\r\n")
                last = b"\r\nconnection: close\r\n" in head.lower()
                target = head.split(b" ", 2)[1]
                if target == PEAK.encode():
                    values = self._take_peak()
                elif target == CONNECTIONS.encode():
                    values = self._take_connections()
                else:
                    self._connections += not counted
                    counted = True
                    values = await self._days(target)
                body = json.dumps(values).encode()
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                    b"Content-Length: %d\r\n\r\n" % len(body) + body
                )
                await writer.drain()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    async def _days(self, target: bytes) -> dict[str, int]:
        self._waiting += 1
        self._peak = max(self._peak, self._waiting)
        try:
            await asyncio.sleep(self._wait)
        finally:
            self._waiting -= 1
        return {"days": 2 + zlib.crc32(target) % 8}

    def _take_peak(self) -> dict[str, int]:
        """Return how many waited at once since this was last asked."""
        peak, self._peak = self._peak, self._waiting
        return {"peak": peak}

    def _take_connections(self) -> dict[str, int]:
        """Return how many connections have come since this was last asked."""
        connections, self._connections = self._connections, 0
        return {"connections": connections}


async def serve(listener: socket.socket, wait: float) -> None:
    """Serve on a listening socket until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)

    # asyncio's own backlog is too short for a crowd: it would wait for its packets, not for us.
    await asyncio.start_server(Supplier(wait).answer, sock=listener, backlog=1024)
    await stop.wait()


if __name__ == "__main__":
    asyncio.run(serve(socket.socket(fileno=int(sys.argv[1])), float(sys.argv[2])))

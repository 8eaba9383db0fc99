"""A supplier's API that takes its time: `python -m example_project.upstream FD SECONDS`.

It answers every GET after the same wait and serves any number at once; `/peak` says how many
waited at once. Standard library only.
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


class Supplier:
    """Answers every request after the same wait; counts how many wait at once."""

    def __init__(self, wait: float) -> None:
        self._wait = wait
        self._waiting = 0
        self._peak = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request, then hang up."""
        # Whoever hangs up first, or sends too much, is no concern of the others.
        with contextlib.suppress(
            ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError
        ):
            head = await reader.readuntil(b"\r\n\r\n")
            target = head.split(b" ", 2)[1]
            values = self._take_peak() if target == PEAK.encode() else await self._days(target)
            body = json.dumps(values).encode()
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"
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


async def serve(listener: socket.socket, wait: float) -> None:
    """Serve on a listening socket until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)

    # asyncio's own backlog is too short for a crowd: it would wait for its packets, not for us.
    await asyncio.start_server(Supplier(wait).answer, sock=listener, backlog=1024)
    await stop.wait()


if __name__ == "__main__":
    asyncio.run(serve(socket.socket(fileno=int(sys.argv[1])), float(sys.argv[2])))

"""A supplier's API that takes its time: `python -m example_project.upstream FD SECONDS`.

It answers every GET after the same wait and serves any number at once. Standard library only.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import sys
import zlib


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, wait: float) -> None:
    """Answer one request after `wait` seconds, then hang up."""
    # Whoever hangs up first, or sends too much, is no concern of the others.
    with contextlib.suppress(
        ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError
    ):
        head = await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(wait)
        target = head.split(b" ", 2)[1]
        body = json.dumps({"days": 2 + zlib.crc32(target) % 8}).encode()
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"
            b"Content-Length: %d\r\n\r\n" % len(body) + body
        )
        await writer.drain()
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def serve(listener: socket.socket, wait: float) -> None:
    """Serve on a listening socket until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await answer(reader, writer, wait)

    await asyncio.start_server(handle, sock=listener)
    await stop.wait()


if __name__ == "__main__":
    asyncio.run(serve(socket.socket(fileno=int(sys.argv[1])), float(sys.argv[2])))

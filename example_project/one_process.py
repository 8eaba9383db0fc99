"""uvicorn in one process: `python -m example_project.one_process FD APPLICATION`.

On uvloop where there is one. A module of its own rather than uvicorn's command line, so that it
takes a socket that listens already, and is the process that is looked at.
"""

from __future__ import annotations

import socket
import sys

import uvicorn

BACKLOG = 4096
"""Connections that may knock at once; the system's own bound (net.core.somaxconn) is as low."""
KEEP_ALIVE = 300
"""Seconds. Longer than any client of a flood is busy: who is hung up on would count as failed."""

ACCEPTING = 32
"""uvloop takes one connection a turn of the loop from a listening socket (libuv since 1.45), and
a turn is long where thousands are under way: so it is given the same socket more than once."""


def serve(listener: socket.socket, application: str) -> None:
    """Serve an ASGI application until SIGTERM."""
    config = uvicorn.Config(
        application,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=3,
        access_log=False,
        log_level="warning",
    )
    sockets = [listener, *(listener.dup() for _ in range(ACCEPTING - 1))]
    uvicorn.Server(config).run(sockets=sockets)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2])

"""A real HTTP server on loopback, in a thread of its own, that does what a test asks it for."""

from __future__ import annotations

import asyncio
import gzip
import ssl
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import cache
from typing import Any, Self

from aiohttp import web

LINE = b"x" * 998 + b"y\n"


@dataclass(frozen=True)
class Seen:
    """One request, as the server saw it."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Upstream:
    """Answers by the path of the request; see `_routes`."""

    def __init__(self, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> None:
        self.seen: list[Seen] = []
        self.host = host
        self.port = 0
        self.closed = 0
        """Connections that have ended."""
        self._tls = tls
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(30)
        return self

    def __exit__(self, *exc: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)
        assert not self._thread.is_alive()

    def url(self, path: str = "/echo", host: str | None = None) -> str:
        """Return the URL of a path."""
        scheme = "http" if self._tls is None else "https"
        return f"{scheme}://{host or self.host}:{self.port}{path}"

    @property
    def held(self) -> int:
        """How many requests wait at /hold."""
        return self._held

    @property
    def connections(self) -> int:
        """How many connections are open."""
        assert self._runner.server is not None
        return len(self._runner.server.connections)

    def let_go(self) -> None:
        """Answer those who wait at /hold, and all who come there."""
        self._loop.call_soon_threadsafe(self._gate.set)

    def count(self, path: str) -> int:
        """Return how often a path was asked for."""
        return sum(seen.path == path for seen in list(self.seen))

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop, self._gate = asyncio.Event(), asyncio.Event()
        self._held = 0
        app = web.Application(middlewares=[self._note])
        for path, handler in self._routes().items():
            app.router.add_route("*", path, handler)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self.host, 0, ssl_context=self._tls)
        await site.start()
        self.port = self._runner.addresses[0][1]
        self._ready.set()
        await self._stop.wait()
        self._gate.set()
        # Handlers whose client has gone still end their connection, in the loop's next turns.
        server = self._runner.server
        assert server is not None
        while any(one._current_request is not None for one in server.connections):  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        await self._runner.cleanup()
        if tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(tasks, timeout=5)
        await asyncio.sleep(0.01)

    @web.middleware
    async def _note(self, request: web.Request, handler: Any) -> web.StreamResponse:
        body = await request.read()
        self.seen.append(Seen(request.method, request.path, dict(request.headers), body))
        response: web.StreamResponse = await handler(request)
        return response

    def _routes(self) -> dict[str, Callable[[web.Request], Coroutine[Any, Any, Any]]]:
        return {
            "/echo": self._echo,
            "/hold": self._hold,
            "/cookie": self._cookie,
            "/bytes": self._bytes,
            "/bomb": self._bomb,
            "/redirect": self._redirect,
            "/flaky": self._flaky,
            "/drop": self._drop,
            "/stall": self._stall,
            "/text": self._text,
        }

    async def _echo(self, request: web.Request) -> web.Response:
        """Say what was sent."""
        return web.json_response(
            {
                "method": request.method,
                "headers": dict(request.headers),
                "body": (await request.read()).decode(),
            }
        )

    async def _hold(self, request: web.Request) -> web.Response:
        """Wait until the test lets go."""
        self._held += 1
        try:
            await self._gate.wait()
        finally:
            self._held -= 1
        return web.Response(text="let go")

    async def _cookie(self, request: web.Request) -> web.Response:
        """Set a cookie."""
        response = web.Response(text="have one")
        response.set_cookie("sessionid", "alice")
        return response

    async def _bytes(self, request: web.Request) -> web.StreamResponse:
        """Send `n` bytes, in chunks and lines of 1000."""
        response = web.StreamResponse()
        await response.prepare(request)
        left = int(request.query["n"])
        while left > 0:
            await response.write(LINE[:left])
            left -= 1000
        return response

    async def _bomb(self, request: web.Request) -> web.Response:
        """Send `n` bytes that were compressed to a thousandth."""
        body = _packed(int(request.query["n"]))
        return web.Response(body=body, headers={"Content-Encoding": "gzip"})

    async def _redirect(self, request: web.Request) -> web.Response:
        """Lead to `to`."""
        status = int(request.query.get("status", "302"))
        return web.Response(status=status, headers={"Location": request.query["to"]})

    async def _flaky(self, request: web.Request) -> web.Response:
        """Fail `fail` times, by `status` or by hanging up, and then answer."""
        if self.count("/flaky") > int(request.query["fail"]):
            return web.Response(text="at last")
        if "status" not in request.query:
            return await self._drop(request)
        headers = {"Retry-After": request.query["after"]} if "after" in request.query else {}
        body = bytes(int(request.query.get("size", "0")))
        return web.Response(status=int(request.query["status"]), headers=headers, body=body)

    async def _drop(self, request: web.Request) -> web.Response:
        """Hang up without an answer."""
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async def _stall(self, request: web.Request) -> web.StreamResponse:
        """Begin an answer, and never end it."""
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"so far ")
        await self._gate.wait()
        return response

    async def _text(self, request: web.Request) -> web.Response:
        """Send `body`, in latin-1."""
        return web.Response(
            body=request.query["body"].encode("latin-1"),
            content_type="text/plain",
            charset="latin-1",
        )


@cache
def _packed(size: int) -> bytes:
    return gzip.compress(bytes(size))

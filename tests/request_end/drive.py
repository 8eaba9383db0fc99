"""What a server does with an application, in the test's own process."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Answered:
    """A response as it went over the wire."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    complete: bool = False
    """Whether its end was announced: the body is not cut."""
    error: BaseException | None = None
    """What the application let the server have."""


def environ(path: str, **extra: Any) -> dict[str, Any]:
    """Return a WSGI environ."""
    path, _, query = path.partition("?")
    return {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "SERVER_NAME": "testserver",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        **extra,
    }


class WsgiServer:
    """Sends headers with the first piece of the body, as PEP 3333 demands."""

    def __init__(self, app: Any) -> None:
        self.app = app

    def get(self, path: str, *, method: str = "GET", accept: str = "") -> Answered:
        """Serve a request to its end."""
        answered = Answered()
        headers: list[Any] = []

        def start_response(status: str, fields: Any, exc_info: Any = None) -> Callable[..., None]:
            assert exc_info or not headers, "a second start_response() without exc_info"
            assert not (exc_info and answered.body), "the headers are on their way"
            headers[:] = [int(status.split()[0]), fields]
            return lambda data: None

        result: Iterable[bytes] = ()
        try:
            asked = {"HTTP_ACCEPT": accept} if accept else {}
            result = self.app(environ(path, REQUEST_METHOD=method, **asked), start_response)
            for piece in result:
                answered.body += piece
            answered.complete = True
        except Exception as error:
            answered.error = error
        finally:
            if hasattr(result, "close"):
                result.close()
        if headers:
            answered.status = headers[0]
            answered.headers = {key.lower(): value for key, value in headers[1]}
        return answered


def scope(
    path: str, *, method: str = "GET", accept: str = "", kind: str = "http"
) -> dict[str, Any]:
    """Return an ASGI connection scope."""
    path, _, query = path.partition("?")
    headers = [(b"host", b"testserver")]
    if accept:
        headers.append((b"accept", accept.encode()))
    return {
        "type": kind,
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": headers,
        "server": ("testserver", 80),
        "client": ("127.0.0.1", 1234),
    }


class AsgiServer:
    """Runs each request in a task of a fresh event loop."""

    def __init__(self, app: Any) -> None:
        self.app = app

    def get(self, path: str, *, method: str = "GET", accept: str = "") -> Answered:
        """Serve a request to its end."""
        return asyncio.run(self.aget(path, method=method, accept=accept))

    async def aget(self, path: str, *, method: str = "GET", accept: str = "") -> Answered:
        exchange = Exchange()
        try:
            await self.app(
                scope(path, method=method, accept=accept), exchange.receive, exchange.send
            )
        except Exception as error:
            exchange.answered.error = error
        return exchange.answered


class Exchange:
    """The server's side of one ASGI request."""

    def __init__(self) -> None:
        self.answered = Answered()
        self.disconnected = asyncio.Event()
        self.begun = asyncio.Event()
        self.broken = False
        """Whether send() fails, as some servers have it when the client is gone."""
        self._asked = False

    async def receive(self) -> dict[str, Any]:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self.disconnected.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        if self.broken:
            raise OSError("the client is gone")
        assert not self.answered.complete, "a message after the end of the response"
        if message["type"] == "http.response.start":
            assert not self.answered.status, "a second start of the response"
            self.answered.status = message["status"]
            self.answered.headers = {
                key.decode().lower(): value.decode() for key, value in message["headers"]
            }
            return
        self.answered.body += message.get("body", b"")
        self.answered.complete = not message.get("more_body", False)
        self.begun.set()

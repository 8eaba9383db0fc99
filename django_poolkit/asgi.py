"""The ASGI side: 503 where a pool was exhausted, every lease comes home, lifespan and health.

In a project's `asgi.py`: `from django_poolkit.asgi import get_asgi_application`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from typing import Any

from asgiref.sync import ThreadSensitiveContext, sync_to_async
from django.core import asgi
from django.core.handlers.asgi import ASGIHandler
from django.http.response import HttpResponseBase

from django_poolkit import exhaustion, streams
from django_poolkit.backends import request, request_end
from django_poolkit.backends.request import KEY, RequestScope
from django_poolkit.backends.routed import path_of
from django_poolkit.control import server as control
from django_poolkit.health import front
from django_poolkit.health.access import Asked
from django_poolkit.lifespan import in_flight, protocol
from django_poolkit.pools.errors import PoolError

logger = logging.getLogger("django_poolkit.request")

Scope = MutableMapping[str, Any]
# Frameworks disagree on how to type a message, and so on all that passes one.
Message = Any
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Any, Any, Any], Awaitable[None]]


def get_asgi_application() -> Poolkit:
    """Return Django's ASGI application in a `Poolkit`. Sets Django up, as Django's does."""
    return Poolkit(asgi.get_asgi_application())


class Poolkit:
    """Wraps an ASGI application, so that its requests return their leases, whatever happens.

    A request or a websocket that ends, fails, is cancelled or loses its client gives back what
    it took. A lease that a view's thread still uses ends when that thread is done with it.
    Where a pool was exhausted, a response of status 500 that has not begun becomes a 503; one
    that has begun is cut. Nothing of this blocks the event loop.

    It answers the lifespan protocol: resources open before the first request, and close after
    the last one. And it answers below `HEALTH["PATH"]` itself, without the application and
    without a thread, also while the process drains; such a request counts as none in flight.
    """

    def __init__(self, app: Application) -> None:
        self.app = app
        if isinstance(app, ASGIHandler):
            _close_streams(app)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection scope of any type."""
        outer = scope.get(KEY)
        if isinstance(outer, RequestScope) and not outer.over:
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            if (asked := front.from_asgi(scope)) is not None:
                await _answer_health(asked, send)
                return
            with in_flight.counted():
                await self.http(scope, receive, send)
        elif scope["type"] == "websocket":
            with in_flight.counted():
                await self.websocket(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self.lifespan(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def http(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request: answer 503 where a pool was exhausted, then end its leases."""
        request_scope = _request_scope(scope, scope["method"])
        exchange = _Exchange(request_scope, scope, send)
        # The thread that Django serves this request with, kept until its leases have ended:
        # what is queued there last runs when the view has returned, also a cancelled one.
        async with ThreadSensitiveContext():
            await self._serve(request_scope, exchange.call(self.app, receive))

    async def websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a websocket connection, then end the leases that it took."""
        # No thread of its own: it would have to be kept for as long as the connection.
        request_scope = _request_scope(scope, "WEBSOCKET")
        scope = request_scope.asgi = {**scope, KEY: request_scope}
        await self._serve(request_scope, self.app(scope, receive, send))

    async def lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Open and close the resources, and within them what the application opens itself."""
        try:
            await protocol.serve(self.app, scope, receive, send)
        finally:
            # Uvicorn ends its processes by a signal, so that no exit hook is run. After the
            # last message, for which a server does not wait, this runs in time nevertheless.
            control.stop()

    async def _serve(self, scope: RequestScope, work: Awaitable[None]) -> None:
        with request.entered(scope):
            try:
                await _streamed(work, scope)
            except GeneratorExit:
                # The loop was closed under the request: nothing can be awaited any more.
                scope.over = True
                scope.settle()
                request_end.watch(scope)
                raise
            except BaseException:
                await _finish(scope)
                raise
            await _finish(scope)


async def _streamed(work: Awaitable[None], scope: RequestScope) -> None:
    """Do the work of a request, then close the streams that were to end with it."""
    try:
        await work
    except GeneratorExit:  # as in `_serve()`
        raise
    except BaseException:
        await streams.close_all(scope)
        raise
    await streams.close_all(scope)


def _close_streams(handler: ASGIHandler) -> None:
    """Have a handler close the asynchronous streams that it gives up, with all they hold.

    Django leaves them to the garbage collector (6.1, StreamingHttpResponse.__aiter__), which may
    take minutes where the error that cut the response refers to it: a transaction that is open
    in one would be so for as long.
    """
    send_response = handler.send_response

    async def closing(response: HttpResponseBase, send: Send) -> None:
        try:
            await send_response(response, send)
        except GeneratorExit:  # the loop was closed: nothing can be awaited any more
            raise
        except BaseException:
            await _close_stream(response)
            raise

    handler.send_response = closing  # type: ignore[method-assign]


async def _close_stream(response: HttpResponseBase) -> None:
    stream = getattr(response, "_iterator", None)
    if isinstance(stream, AsyncGenerator):  # else as a channel, which may go on for others
        await streams.close(stream)


def _request_scope(scope: Scope, method: str) -> RequestScope:
    return RequestScope(owned=True, method=method, path=path_of(scope))


class _Exchange:
    """One request and what its answer has come to."""

    __slots__ = ("_send", "replaced", "request_scope", "scope", "started")

    def __init__(self, request_scope: RequestScope, scope: Scope, send: Send) -> None:
        self.request_scope = request_scope
        self.scope: Scope = {**scope, KEY: request_scope}
        request_scope.asgi = self.scope
        self.started = False
        self.replaced = False
        self._send = send

    async def call(self, app: Application, receive: Receive) -> None:
        try:
            await app(self.scope, receive, self.send)
        except Exception as error:
            found = exhaustion.find(error)
            if found is None or self.replaced:
                raise
            if self.started:
                # The server cuts the response: it has been told of no end.
                exhaustion.note("cut", found, method=self._method(), path=self._path())
                raise
            await self._answer(found)

    async def send(self, message: Message) -> None:
        if self.replaced:
            return
        if message["type"] == "http.response.start":
            scope = self.request_scope
            if message["status"] == 500 and scope.exhausted is not None:
                await self._answer(scope.exhausted)
                return
            if scope.answered and exhaustion.revoked(scope, message["status"]):
                kept = [pair for pair in message["headers"] if pair[0].lower() != b"retry-after"]
                message = {**message, "headers": kept}
            self.started = True
        await self._send(message)

    async def _answer(self, error: PoolError) -> None:
        accept = b",".join(value for key, value in self.scope["headers"] if key == b"accept")
        answer = exhaustion.answer(
            self.request_scope,
            error,
            method=self._method(),
            path=self._path(),
            accept=accept.decode("latin-1"),
        )
        self.replaced = True
        await _send_whole(self._send, exhaustion.STATUS, answer.headers, answer.body)

    def _method(self) -> str:
        return str(self.scope.get("method", ""))

    def _path(self) -> str:
        return str(self.scope.get("path", ""))


async def _answer_health(asked: Asked, send: Send) -> None:
    answer = await front.aanswer(asked)
    await _send_whole(send, answer.status, answer.headers, answer.body)


async def _send_whole(send: Send, status: int, fields: list[tuple[str, str]], body: bytes) -> None:
    headers = [(key.lower().encode("latin-1"), value.encode("latin-1")) for key, value in fields]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


# The loop holds its tasks weakly; and these may outlive the request that began them.
_tasks: set[asyncio.Task[None]] = set()


async def _finish(scope: RequestScope) -> None:
    """End the leases of a request, in its thread. Goes on when the caller is cancelled."""
    scope.over = True
    scope.settle()
    if not scope.leases:
        return
    # What was taken on the loop's own thread (DJANGO_ALLOW_ASYNC_UNSAFE) must not block it now.
    request_end.let_go(scope)
    task = asyncio.get_running_loop().create_task(_finish_in_thread(scope))
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)
    await asyncio.shield(task)


async def _finish_in_thread(scope: RequestScope) -> None:
    try:
        await sync_to_async(request_end.finish)(scope)
    except Exception:
        logger.exception("event=finish_failed")
    finally:
        # The loop may be closing, or the thread be gone.
        if scope.leases:
            request_end.watch(scope)

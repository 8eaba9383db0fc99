"""The WSGI side: 503 where a pool was exhausted, every lease comes home, and health.

In a project's `wsgi.py`: `from django_poolkit.wsgi import get_wsgi_application`.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from http.client import responses
from typing import TYPE_CHECKING, Any, Final

from django.core import wsgi
from django.core.handlers.wsgi import get_path_info

from django_poolkit import exhaustion
from django_poolkit.backends import request, request_end
from django_poolkit.backends.request import KEY, RequestScope
from django_poolkit.health import front
from django_poolkit.health.access import Asked
from django_poolkit.pools.errors import PoolError

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

Headers = list[tuple[str, str]]

STATUS_LINE: Final = f"{exhaustion.STATUS} {exhaustion.REASON}"

_END: Final[Any] = object()  # stands for the piece behind the last one


def get_wsgi_application() -> PoolkitWSGI:
    """Return Django's WSGI application in a `PoolkitWSGI`. Sets Django up, as Django's does."""
    return PoolkitWSGI(wsgi.get_wsgi_application())


class PoolkitWSGI:
    """Wraps a WSGI application, so that its requests return their leases, whatever happens.

    A lease ends when the server closes the response, when the application or its iterable
    raises, when the server drops the response unclosed, and at the latest with the next request
    of the same thread. Where a pool was exhausted, a response of status 500 that has not begun
    becomes a 503; one that has begun is cut.

    Below `HEALTH["PATH"]` it answers itself, without the application.
    """

    def __init__(self, app: WSGIApplication) -> None:
        self.app = app

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve a request. What it returns ends the leases when it is closed."""
        outer = environ.get(KEY)
        if isinstance(outer, RequestScope) and not outer.over:
            return self.app(environ, start_response)
        path = environ.get("PATH_INFO", "/")
        if not path.isascii():  # else Django returns it as it is, after three calls
            path = get_path_info(environ)
        if (behind := front.path_behind(path)) is not None:
            return _health(front.asked_by(environ, behind), start_response)
        previous = _local.scope()
        if previous is not None and previous.leases and request.current() is not previous:
            # Its server dropped the last request of this thread: a thread serves one.
            request_end.finish(previous)
        scope = environ[KEY] = RequestScope(
            owned=True, method=environ.get("REQUEST_METHOD", ""), path=path
        )
        _local.scope = weakref.ref(scope)
        exchange = _Exchange(scope, environ, start_response)
        try:
            result = exchange.call(self.app)
        except BaseException:
            request_end.finish(scope)
            raise
        wrapper = environ.get("wsgi.file_wrapper")
        if isinstance(wrapper, type) and isinstance(result, wrapper) and not exchange.replaced:
            # Servers send these by sendfile(), if they get them as they are. It takes no lease.
            request_end.finish(scope)
            return result
        return _Body(exchange, result)


def _health(asked: Asked, start_response: StartResponse) -> Iterable[bytes]:
    answer = front.answer(asked)
    phrase = responses.get(answer.status, "Unknown")  # a status of the settings may have no name
    start_response(f"{answer.status} {phrase}", answer.headers)
    return [answer.body] if answer.body else []


class _Exchange:
    """One request and what its answer has come to."""

    __slots__ = (
        "_start_response", "_write", "begun", "body", "environ", "replaced", "scope", "started",
    )  # fmt: skip

    def __init__(
        self, scope: RequestScope, environ: WSGIEnvironment, start_response: StartResponse
    ) -> None:
        self.scope = scope
        self.environ = environ
        self.started = False
        """Whether start_response() has been called."""
        self.begun = False
        """Whether something of the body is on its way, and the headers with it."""
        self.replaced = False
        self.body = b""
        """The body to send instead of the application's."""
        self._start_response = start_response
        self._write: Callable[[bytes], object]

    def call(self, app: WSGIApplication) -> Iterable[bytes]:
        token = request.enter(self.scope)
        try:
            return app(self.environ, self.start_response)
        except Exception as error:
            if not self.replace(error):
                raise
            return ()
        finally:
            request.leave(token)

    def start_response(
        self, status: str, headers: Headers, exc_info: Any = None, /
    ) -> Callable[[bytes], object]:
        scope = self.scope
        if scope.exhausted is not None and status.startswith("500") and not self.begun:
            self._answer(scope.exhausted, exc_info)
            return lambda data: None
        if scope.answered and exhaustion.revoked(scope, int(status[:3])):
            headers = [(key, value) for key, value in headers if key.lower() != "retry-after"]
        self.started = True
        self._write = self._start_response(status, headers, exc_info)
        return self.write

    def write(self, data: bytes) -> object:
        """Send a piece of the body past what the application returns. PEP 3333's `write()`."""
        if data:
            self.begun = True
        return self._write(data)

    def replace(self, error: Exception) -> bool:
        """Answer an error that comes from an exhausted pool; return whether that was possible."""
        found = exhaustion.find(error)
        if found is None:
            return False
        if self.begun:
            exhaustion.note("cut", found, method=self._method(), path=self._path())
            return False
        # WSGI lets headers be replaced until the first piece of the body has been sent.
        self._answer(found, (type(error), error, error.__traceback__) if self.started else None)
        return True

    def _answer(self, error: PoolError, exc_info: Any) -> None:
        accept = self.environ.get("HTTP_ACCEPT", "")
        answer = exhaustion.answer(
            self.scope, error, method=self._method(), path=self._path(), accept=accept
        )
        self.replaced, self.body = True, answer.body
        if exc_info is None:
            self._start_response(STATUS_LINE, answer.headers)
        else:
            self._start_response(STATUS_LINE, answer.headers, exc_info)

    def _method(self) -> str:
        return str(self.environ.get("REQUEST_METHOD", ""))

    def _path(self) -> str:
        path = self.environ.get("SCRIPT_NAME", "") + self.environ.get("PATH_INFO", "")
        return (
            str(path).encode("latin-1", "replace").decode("utf-8", "replace")
        )  # PEP 3333's encoding


class _Body:
    """The response as the server gets it. Its end is the end of the request."""

    __slots__ = ("_exchange", "_iterator", "_result")

    def __init__(self, exchange: _Exchange, result: Iterable[bytes]) -> None:
        self._exchange = exchange
        self._result = result
        self._iterator: Iterator[bytes] | None = None

    def __iter__(self) -> Iterator[bytes]:
        # No generator: middleware may keep no more than this, and close it, begun or at its end.
        return self

    def __next__(self) -> bytes:
        exchange, piece = self._exchange, _END
        try:
            if not exchange.replaced:
                token = request.enter(exchange.scope)
                try:
                    if self._iterator is None:
                        self._iterator = iter(self._result)
                    piece = next(self._iterator, _END)
                finally:
                    request.leave(token)
        except Exception as error:
            if not exchange.replace(error):
                request_end.finish(exchange.scope)
                raise
        except BaseException:
            request_end.finish(exchange.scope)
            raise
        if exchange.replaced:  # an application may call start_response() as late as here
            piece, exchange.body = exchange.body or _END, b""
        if piece is _END:
            raise StopIteration
        if piece:
            exchange.begun = True
        return piece  # type: ignore[no-any-return]

    def close(self) -> None:
        """End the request: close the application's response, then end what leases there are."""
        scope = self._exchange.scope
        try:
            close = getattr(self._result, "close", None)
            if close is not None:
                token = request.enter(scope)
                try:
                    close()
                finally:
                    request.leave(token)
        finally:
            request_end.finish(scope)

    def __del__(self) -> None:
        # A server that never calls close(). A finalizer runs at any point of any thread, so it
        # only passes on what is to be done.
        scope = self._exchange.scope
        if not scope.over:
            scope.over = True
            if scope.leases:
                request_end.watch(scope)


class _Local(threading.local):
    """What a thread serves."""

    def __init__(self) -> None:
        self.scope: Callable[[], RequestScope | None] = lambda: None
        """Leads to the last request, as long as there is anything of it."""


_local = _Local()

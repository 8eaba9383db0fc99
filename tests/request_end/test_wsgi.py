"""Every lease that a WSGI request took comes home, in whichever way the request ends."""

from __future__ import annotations

import contextlib
import contextvars
import gc
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from wsgiref.util import FileWrapper

import pytest
from django.core.handlers.wsgi import get_path_info
from django.db import connection

from django_poolkit.backends import request
from django_poolkit.backends.request import KEY
from django_poolkit.pools.postgres import ConnectionPool
from django_poolkit.testing.waiting import wait_until
from django_poolkit.wsgi import PoolkitWSGI, get_wsgi_application
from tests.app.models import Item
from tests.request_end.drive import WsgiServer, environ

pytestmark = pytest.mark.core

Serve = Callable[..., Any]


@pytest.fixture
def server(serve: Serve, pool: ConnectionPool) -> WsgiServer:
    """A server before Django in the wrapper, without middleware."""
    server: WsgiServer = serve("wsgi+wrapper")
    return server


def no_start(status: str, headers: Any, exc_info: Any = None) -> Callable[[bytes], object]:
    return lambda data: None


class Application:
    """A WSGI application that closes nothing by itself, unlike Django."""

    def __init__(self, *, raises: bool = False) -> None:
        self.raises = raises

    def __call__(self, environ: Any, start_response: Any) -> Iterator[bytes]:
        Item.objects.count()
        if environ["PATH_INFO"] == "/raise/":
            raise RuntimeError("boom")
        start_response("200 OK", [])
        return self.pieces()

    def pieces(self) -> Iterator[bytes]:
        yield b"one"
        Item.objects.count()
        if self.raises:
            raise RuntimeError("boom")
        yield b"two"


@pytest.mark.parametrize("path", ["/count/", "/acount/", "/boom/", "/begin/", "/file/"])
def test_djangos_ways_to_end(server: WsgiServer, pool: ConnectionPool, path: str) -> None:
    answered = server.get(path)
    assert answered.complete
    assert pool.stats().used == 0
    assert Item.objects.count() == 0


def test_the_lease_lasts_until_the_response_is_closed(pool: ConnectionPool) -> None:
    result: Any = PoolkitWSGI(Application())(environ("/"), no_start)
    assert list(result) == [b"one", b"two"]
    assert pool.stats().used == 1
    result.close()
    assert pool.stats().used == 0


def test_an_application_that_raises(pool: ConnectionPool) -> None:
    with pytest.raises(RuntimeError, match="boom"):
        PoolkitWSGI(Application())(environ("/raise/"), no_start)
    assert pool.stats().used == 0


def test_an_iteration_that_raises(pool: ConnectionPool) -> None:
    result = iter(PoolkitWSGI(Application(raises=True))(environ("/"), no_start))
    assert next(result) == b"one"
    assert pool.stats().used == 1
    with pytest.raises(RuntimeError, match="boom"):
        next(result)
    assert pool.stats().used == 0


def test_a_close_that_raises(pool: ConnectionPool) -> None:
    class Unclosable(list[bytes]):
        def close(self) -> None:
            raise RuntimeError("boom")

    def app(environ: Any, start_response: Any) -> Unclosable:
        Item.objects.count()
        return Unclosable()

    result: Any = PoolkitWSGI(app)(environ("/"), no_start)
    with pytest.raises(RuntimeError, match="boom"):
        result.close()
    assert pool.stats().used == 0


def test_an_interrupt(pool: ConnectionPool) -> None:
    """As gunicorn raises SystemExit in a worker that takes too long."""

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        Item.objects.count()
        raise SystemExit

    with pytest.raises(SystemExit):
        PoolkitWSGI(app)(environ("/"), no_start)
    assert pool.stats().used == 0


def test_a_stream_that_is_abandoned(server: WsgiServer, pool: ConnectionPool) -> None:
    result: Any = server.app(environ("/stream/"), no_start)
    assert next(iter(result)) == b"0\n"
    assert pool.stats().used == 1
    result.close()
    assert pool.stats().used == 0


@pytest.mark.parametrize("pieces", [0, 1, 2])
def test_what_closes_the_iterator_closes_the_response(pool: ConnectionPool, pieces: int) -> None:
    """As middleware does that keeps no more than `iter()` of what it was given."""
    closed: list[bool] = []

    class Response(list[bytes]):
        def close(self) -> None:
            closed.append(request.current() is scope)

    def app(environ: Any, start_response: Any) -> Response:
        Item.objects.count()
        start_response("200 OK", [])
        return Response([b"one"])

    asked = environ("/")
    iterator: Any = iter(PoolkitWSGI(app)(asked, no_start))
    scope = asked[KEY]
    assert [piece for piece, _ in zip(iterator, range(pieces), strict=False)] == [b"one"][:pieces]
    iterator.close()
    assert closed == [True]
    assert pool.stats().used == 0


# -- servers that do not call close()


def in_a_worker(work: Callable[[], Any]) -> Any:
    """Run something as the job of a worker thread that lives on, and return its result."""
    executor = ThreadPoolExecutor(1)
    try:
        return executor.submit(work).result(10.0)
    finally:
        _executors.append(executor)


_executors: list[ThreadPoolExecutor] = []


@pytest.fixture(autouse=True)
def _end_workers() -> Iterator[None]:
    yield
    while _executors:
        _executors.pop().shutdown()


def test_a_dropped_response_ends_with_its_finalizer(pool: ConnectionPool) -> None:
    def work() -> None:
        result = PoolkitWSGI(Application())(environ("/"), no_start)
        next(iter(result))
        assert pool.stats().used == 1

    in_a_worker(work)
    gc.collect()
    wait_until(lambda: pool.stats().used == 0, 5.0)


def request_scope() -> Any:
    """Return the scope in which this thread's lease was taken."""
    return connection._scope  # type: ignore[attr-defined]


def test_a_response_that_is_kept_ends_with_the_next_request_of_its_thread(
    pool: ConnectionPool,
) -> None:
    app = PoolkitWSGI(Application())
    first = app(environ("/"), no_start)
    next(iter(first))
    scope: Any = request_scope()
    second: Any = app(environ("/"), no_start)
    assert scope.over
    assert not scope.leases
    assert request_scope() is not scope
    assert pool.stats().used == 1
    second.close()
    assert pool.stats().used == 0
    # And should the server go on with the first: it takes a lease anew, and gives it back.
    assert list(first) == [b"two"]
    assert pool.stats().used == 1
    first.close()  # type: ignore[attr-defined]
    assert pool.stats().used == 0


def test_a_thread_that_ends_with_its_request(pool: ConnectionPool) -> None:
    """As the threads of a development server do: its lease is not taken for a leak."""
    kept: list[Any] = []

    def work() -> None:
        result = PoolkitWSGI(Application())(environ("/"), no_start)
        kept.append(result)
        next(iter(result))

    thread = threading.Thread(target=work)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        thread.start()
        thread.join()
        with pool.lease():  # an acquire looks for leaks
            assert pool.stats().used == 2
        kept.pop().close()
        wait_until(lambda: pool.stats().used == 0, 5.0)


def test_a_thread_that_goes_on_when_the_response_is_closed(pool: ConnectionPool) -> None:
    taken, go_on = threading.Event(), threading.Event()

    def work() -> None:
        Item.objects.count()
        taken.set()
        go_on.wait(10.0)

    def app(environ: Any, start_response: Any) -> list[bytes]:
        context = contextvars.copy_context()
        _executors.append(ThreadPoolExecutor(1))
        _executors[0].submit(context.run, work)
        assert taken.wait(10.0)
        return []

    result: Any = PoolkitWSGI(app)(environ("/"), no_start)
    result.close()
    assert pool.stats().used == 1
    go_on.set()
    wait_until(lambda: pool.stats().used == 0, 5.0)


# -- answers


def test_a_stream_that_has_begun_is_cut(
    server: WsgiServer, full: ConnectionPool, caplog: pytest.LogCaptureFixture
) -> None:
    answered = server.get("/cut/2/")
    assert (answered.status, answered.body) == (200, b"piece 0\npiece 1\n")
    assert not answered.complete
    assert isinstance(answered.error, TimeoutError)
    (line,) = [r.getMessage() for r in caplog.records if r.name == "django_poolkit.request"]
    assert "event=cut reason=timeout" in line


def test_a_stream_that_has_not_begun_is_answered(server: WsgiServer, full: ConnectionPool) -> None:
    # Headers travel with the first piece of the body.
    answered = server.get("/cut/0/")
    assert answered.status == 503
    assert answered.complete
    assert "Service Unavailable" in answered.body.decode()


def test_an_application_that_answers_500_late(full: ConnectionPool) -> None:
    closed = []

    class Late:
        def __init__(self, environ: Any, start_response: Any) -> None:
            self.start_response = start_response

        def __iter__(self) -> Iterator[bytes]:
            try:
                Item.objects.count()
            except TimeoutError:
                write = self.start_response("500 Oh", [("Set-Cookie", "a=b")])
                write(b"written")
                yield b"the application's own"

        def close(self) -> None:
            closed.append(True)

    answered = WsgiServer(PoolkitWSGI(Late)).get("/")
    assert answered.status == 503
    assert answered.body.startswith(b"Service Unavailable")
    assert int(answered.headers["content-length"]) == len(answered.body)
    assert closed


def test_an_application_that_answers_500_late_and_has_nothing_to_say(full: ConnectionPool) -> None:
    class Silent:
        def __init__(self, environ: Any, start_response: Any) -> None:
            self.start_response = start_response

        def __iter__(self) -> Iterator[bytes]:
            with contextlib.suppress(TimeoutError):
                Item.objects.count()
            self.start_response("500 Oh", [])
            yield from ()

    answered = WsgiServer(PoolkitWSGI(Silent)).get("/")
    assert answered.status == 503
    assert answered.body.startswith(b"Service Unavailable")
    assert int(answered.headers["content-length"]) == len(answered.body)


def test_what_is_written_past_the_body_has_begun_the_response(full: ConnectionPool) -> None:
    """PEP 3333's `write()`: the headers are on their way, so nothing can be replaced."""

    def app(environ: Any, start_response: Any) -> list[bytes]:
        write = start_response("200 OK", [])
        write(b"")
        if environ["PATH_INFO"] == "/begun/":
            write(b"begun")
        Item.objects.count()
        return []

    written: list[bytes] = []
    told: list[str] = []

    def start_response(status: str, headers: Any, exc_info: Any = None) -> Callable[[bytes], Any]:
        told.append(status)
        return written.append

    with pytest.raises(TimeoutError):
        PoolkitWSGI(app)(environ("/begun/"), start_response)
    assert (told, written) == (["200 OK"], [b"", b"begun"])
    result: Any = PoolkitWSGI(app)(environ("/"), start_response)
    assert told[1:] == ["200 OK", "503 Service Unavailable"]
    assert b"".join(result).startswith(b"Service Unavailable")
    result.close()


def test_a_file_is_left_to_the_server(server: WsgiServer, pool: ConnectionPool) -> None:
    result: Any = server.app(environ("/file/", **{"wsgi.file_wrapper": FileWrapper}), no_start)
    assert isinstance(result, FileWrapper)
    assert pool.stats().used == 0, "a lease is held while a file is sent"
    result.close()


def test_wrappers_in_one_another_share_a_scope(pool: ConnectionPool) -> None:
    def between(environ: Any, start_response: Any) -> list[bytes]:
        scope = environ[KEY]
        result: Any = PoolkitWSGI(Application())(environ, start_response)
        assert environ[KEY] is scope is request.current()
        pieces = list(result)
        assert pool.stats().used == 1, "only the outermost ends leases"
        return pieces

    result: Any = PoolkitWSGI(between)(environ("/"), no_start)
    assert list(result) == [b"one", b"two"]
    result.close()
    assert pool.stats().used == 0
    assert request.current() is None


def test_a_request_within_a_request_is_its_own(pool: ConnectionPool) -> None:
    app = PoolkitWSGI(Application())
    acquired = pool.stats().acquired

    def outer(asked: Any, start_response: Any) -> list[bytes]:
        Item.objects.count()
        scope = request.current()
        inner: Any = app(environ("/"), no_start)
        assert list(inner) == [b"one", b"two"]
        inner.close()
        assert request.current() is scope
        Item.objects.count()
        assert pool.stats().acquired == acquired + 1, "the inner one has ended the outer's lease"
        return [b"done"]

    result: Any = PoolkitWSGI(outer)(environ("/"), no_start)
    assert list(result) == [b"done"]
    result.close()
    assert pool.stats().used == 0


@pytest.mark.parametrize(
    ("sent", "read"), [("/", "/"), ("/a b/", "/a b/"), ("/caf\xc3\xa9/", "/café/"), ("", "")]
)
def test_the_path_is_what_django_reads(sent: str, read: str) -> None:
    asked = environ(sent)
    assert get_path_info(asked) == read
    PoolkitWSGI(lambda environ, start_response: [])(asked, no_start)
    assert asked[KEY].path == read


def test_a_request_without_a_query_costs_few_calls() -> None:
    """Each request of a site pays for what happens in the wrapper."""

    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [b"one"]

    def serve() -> None:
        result: Any = wrapped(environ("/"), no_start)
        assert list(result) == [b"one"]
        result.close()

    wrapped = PoolkitWSGI(app)
    called: list[str] = []

    def note(frame: Any, event: str, arg: Any) -> None:
        module = frame.f_globals["__name__"]
        if event == "call" and module.startswith(("django_poolkit.", "contextlib", "_weakref")):
            called.append(f"{module}.{frame.f_code.co_name}")

    serve()  # what is found out with the first
    before = sys.getprofile()
    sys.setprofile(note)
    try:
        serve()
    finally:
        sys.setprofile(before)
    assert len(called) <= 15, called


def test_the_application_of_a_project() -> None:
    app = get_wsgi_application()
    assert isinstance(app, PoolkitWSGI)
    assert type(app.app).__name__ == "WSGIHandler"

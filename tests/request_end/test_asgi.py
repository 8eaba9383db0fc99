"""Every lease that an ASGI request took comes home, in whichever way the request ends."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import django
import pytest
from asgiref.sync import sync_to_async
from django.db import connection

from django_poolkit.asgi import Poolkit, get_asgi_application
from django_poolkit.backends import request
from django_poolkit.backends.request import KEY
from django_poolkit.pools.postgres import ConnectionPool
from django_poolkit.testing.waiting import wait_until
from tests.app.models import Item
from tests.request_end import views
from tests.request_end.conftest import UNCLOSED
from tests.request_end.drive import Exchange, scope

pytestmark = [pytest.mark.core, pytest.mark.filterwarnings(UNCLOSED)]

Serve = Callable[..., Any]


@pytest.fixture
def app(serve: Serve, pool: ConnectionPool) -> Poolkit:
    """Django in the wrapper, without middleware."""
    app: Poolkit = serve("asgi+wrapper").app
    return app


@pytest.fixture
def released_by(pool: ConnectionPool, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the threads that have released a lease."""
    names: list[str] = []
    release = pool.release

    def noting(lease: Any) -> None:
        names.append(threading.current_thread().name)
        release(lease)

    monkeypatch.setattr(pool, "release", noting)
    return names


async def until(fact: threading.Event) -> None:
    assert await asyncio.to_thread(fact.wait, 10.0)


async def until_home(pool: ConnectionPool, within: float = 5.0) -> None:
    await asyncio.to_thread(wait_until, lambda: pool.stats().used == 0, within)


def begin(app: Any, exchange: Exchange, path: str, kind: str = "http") -> asyncio.Task[None]:
    # A server begins each request in an empty context.
    work = app(scope(path, kind=kind), exchange.receive, exchange.send)
    return asyncio.get_running_loop().create_task(work, context=contextvars.Context())


async def cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("path", ["/count/", "/acount/"])
def test_a_request_that_ends_well(app: Poolkit, pool: ConnectionPool, path: str) -> None:
    async def main() -> None:
        exchange = Exchange()
        await begin(app, exchange, path)
        assert exchange.answered.status == 200
        assert pool.stats().used == 0

    asyncio.run(main())


@pytest.mark.parametrize("path", ["/boom/", "/aboom/", "/begin/"])
@pytest.mark.parametrize("propagate", [False, True])
def test_an_exception(serve: Serve, pool: ConnectionPool, path: str, propagate: bool) -> None:
    app = serve("asgi+wrapper", DEBUG_PROPAGATE_EXCEPTIONS=propagate).app

    async def main() -> None:
        task = begin(app, Exchange(), path)
        if propagate:
            with pytest.raises(RuntimeError, match="boom"):
                await task
        else:
            await task
        assert pool.stats().used == 0

    asyncio.run(main())
    assert Item.objects.count() == 0


def test_a_cancelled_async_view(app: Poolkit, pool: ConnectionPool) -> None:
    async def main() -> None:
        task = begin(app, Exchange(), "/asleep/")
        await until(views.reached)
        assert pool.stats().used == 1
        await cancelled(task)
        assert pool.stats().used == 0

    asyncio.run(main())


def test_a_cancelled_sync_view_keeps_its_lease_until_its_thread_is_done(
    app: Poolkit, pool: ConnectionPool
) -> None:
    async def main() -> None:
        task = begin(app, Exchange(), "/sleep/?seconds=0.4")
        await until(views.reached)
        task.cancel()
        await asyncio.sleep(0.1)
        assert pool.stats().used == 1, "taken from under a running statement"
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(views.done)
        await until_home(pool)

    asyncio.run(main())
    # The view went on as Django has it: on one connection, and its write is there.
    assert views.seen[0] == views.seen[1]
    assert Item.objects.get().name == "slept"


def test_a_request_that_is_cancelled_again_and_again(
    app: Poolkit, pool: ConnectionPool, released_by: list[str]
) -> None:
    async def main() -> None:
        task = begin(app, Exchange(), "/sleep/?seconds=0.4")
        await until(views.reached)
        while not task.done():
            task.cancel()
            await asyncio.sleep(0.01)
        assert not views.done.is_set(), "the cancellation was held up by the view"
        await until(views.done)
        await until_home(pool)

    asyncio.run(main())
    assert views.seen[0] == views.seen[1]
    assert released_by == [views.seen[2]]


def test_a_loop_that_is_closed_under_a_request(app: Poolkit, pool: ConnectionPool) -> None:
    async def main() -> asyncio.Task[None]:
        task = begin(app, Exchange(), "/sleep/?seconds=0.4")
        await until(views.reached)
        return task  # asyncio.run() cancels what is left

    asyncio.run(main())
    assert views.done.wait(10.0)
    wait_until(lambda: pool.stats().used == 0, 5.0)


def test_a_loop_that_cancels_everything(app: Poolkit, pool: ConnectionPool) -> None:
    async def main() -> None:
        task = begin(app, Exchange(), "/sleep/?seconds=0.4")
        await until(views.reached)
        while not task.done():
            for other in asyncio.all_tasks() - {asyncio.current_task()}:
                other.cancel()
            await asyncio.sleep(0.01)
        await until(views.done)
        await until_home(pool)

    asyncio.run(main())


def test_a_request_that_is_dropped(pool: ConnectionPool) -> None:
    """A task whose loop stopped for ever is closed by its finalizer, which can await nothing."""
    work: Coroutine[Any, Any, None] | None = None

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        await sync_to_async(Item.objects.count)()
        views.reached.set()
        await asyncio.sleep(60)

    async def main() -> None:
        nonlocal work
        exchange = Exchange()
        work = Poolkit(inner)(scope("/", kind="websocket"), exchange.receive, exchange.send)
        step = asyncio.ensure_future(_first_steps(work))
        await until(views.reached)
        step.cancel()

    asyncio.run(main())
    assert work is not None
    work.close()
    del work
    gc.collect()
    wait_until(lambda: pool.stats().used == 0, 5.0)


async def _first_steps(work: Coroutine[Any, Any, None]) -> None:
    """Drive a coroutine as a task does, but leave it as it is when cancelled."""

    class Steps:
        def __await__(self) -> Any:
            while True:
                yield work.send(None)

    await Steps()


def test_a_client_that_goes_away(app: Poolkit, pool: ConnectionPool) -> None:
    async def main() -> None:
        exchange = Exchange()
        task = begin(app, exchange, "/asleep/")
        await until(views.reached)
        exchange.disconnected.set()
        await asyncio.wait_for(task, 5.0)
        assert exchange.answered.status == 0
        assert pool.stats().used == 0

    asyncio.run(main())


def test_a_client_that_goes_away_while_a_sync_view_runs(app: Poolkit, pool: ConnectionPool) -> None:
    async def main() -> None:
        exchange = Exchange()
        task = begin(app, exchange, "/sleep/?seconds=0.3")
        await until(views.reached)
        exchange.disconnected.set()
        await asyncio.wait_for(task, 5.0)
        await until_home(pool)

    asyncio.run(main())
    assert views.done.is_set()
    assert views.seen[0] == views.seen[1]


@pytest.mark.parametrize("path", ["/count/", "/acount/"])
def test_a_send_that_fails(app: Poolkit, pool: ConnectionPool, path: str) -> None:
    async def main() -> None:
        exchange = Exchange()
        exchange.broken = True
        with pytest.raises(OSError, match="the client is gone"):
            await begin(app, exchange, path)
        assert pool.stats().used == 0

    asyncio.run(main())


@pytest.mark.parametrize("end", ["cancel", "send", "disconnect"])
def test_a_stream_that_is_abandoned(app: Poolkit, pool: ConnectionPool, end: str) -> None:
    async def main() -> None:
        exchange = Exchange()
        task = begin(app, exchange, "/astream/")
        await asyncio.wait_for(exchange.begun.wait(), 5.0)
        assert pool.stats().used == 1
        if end == "cancel":
            await cancelled(task)
        elif end == "send":
            exchange.broken = True
            with pytest.raises(OSError, match="the client is gone"):
                await task
        else:
            exchange.disconnected.set()
            await asyncio.wait_for(task, 5.0)
        assert not exchange.answered.complete
        assert pool.stats().used == 0

    asyncio.run(main())


class Unread(Exchange):
    """A client that reads no more once the body has begun: send() waits until it fails."""

    def __init__(self) -> None:
        super().__init__()
        self.reset = asyncio.Event()

    async def send(self, message: dict[str, Any]) -> None:
        await super().send(message)
        if self.begun.is_set():
            await self.reset.wait()
            raise OSError("the client is gone")


@pytest.mark.parametrize("end", ["cancel", "send", "disconnect"])
def test_a_stream_that_is_abandoned_at_a_yield(
    app: Poolkit, pool: ConnectionPool, end: str
) -> None:
    async def main() -> None:
        exchange = Unread()
        task = begin(app, exchange, "/ahold/")
        await asyncio.wait_for(exchange.begun.wait(), 5.0)
        assert pool.stats().used == 1
        if end == "cancel":
            task.cancel()
        elif end == "send":
            exchange.reset.set()
        else:
            exchange.disconnected.set()
        # The error, with all that it refers to, lives on: a server may log it, and Django's
        # refers to itself.
        [error] = await asyncio.gather(task, return_exceptions=True)
        wanted: dict[str, type] = {
            "cancel": asyncio.CancelledError,
            "send": OSError,
            "disconnect": type(None),
        }
        assert isinstance(error, wanted[end])
        if end == "cancel" and django.VERSION < (6, 1):
            exchange.reset.set()  # its handler goes on in a task that it does not cancel
            await until_home(pool)
        assert pool.stats().used == 0

    gc.disable()
    try:
        asyncio.run(main())
    finally:
        gc.enable()


def test_a_stream_that_is_no_generator_is_its_owners(app: Poolkit) -> None:
    async def main() -> None:
        exchange = Exchange()
        task = begin(app, exchange, "/achannel/")
        await asyncio.wait_for(exchange.begun.wait(), 5.0)
        exchange.disconnected.set()
        await asyncio.wait_for(task, 5.0)

    asyncio.run(main())
    assert not views.channel.closed


def test_a_stream_that_fails_as_it_is_closed(app: Poolkit) -> None:
    async def main() -> list[Any]:
        told: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, facts: told.append(facts))
        exchange = Exchange()
        task = begin(app, exchange, "/amourn/")
        await asyncio.wait_for(exchange.begun.wait(), 5.0)
        exchange.broken = True
        with pytest.raises(OSError, match="the client is gone"):
            await task
        return told

    [facts] = asyncio.run(main())
    assert str(facts["exception"]) == "of the end"
    assert "amourn" in facts["message"]


def test_a_stream_that_finds_the_pool_exhausted_is_cut(
    app: Poolkit, full: ConnectionPool, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> Exchange:
        exchange = Exchange()
        with pytest.raises(TimeoutError):
            await begin(app, exchange, "/acut/2/")
        return exchange

    answered = asyncio.run(main()).answered
    assert (answered.status, answered.body) == (200, b"piece 0\npiece 1\n")
    assert not answered.complete
    (line,) = [r.getMessage() for r in caplog.records if r.name == "django_poolkit.request"]
    assert "event=cut reason=timeout" in line


# -- threads beside the request's own


def test_a_cancelled_request_with_a_thread_of_its_own(app: Poolkit, pool: ConnectionPool) -> None:
    async def main() -> None:
        task = begin(app, Exchange(), "/foreign_thread/")
        await until(views.reached)
        await cancelled(task)
        assert not views.done.is_set()
        assert pool.stats().used == 1, "taken from under a running statement"
        await until(views.done)
        # The thread lives on, in the loop's executor, and its lease does not.
        await until_home(pool)

    asyncio.run(main())


def test_a_thread_that_goes_on_to_another_job(app: Poolkit, pool: ConnectionPool) -> None:
    async def main() -> None:
        # One thread, always at work: it is never met between two jobs.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        task = begin(app, Exchange(), "/foreign_thread/")
        while not views.reached.is_set():  # noqa: ASYNC110 - set by a thread
            await asyncio.sleep(0.005)
        await cancelled(task)
        assert pool.stats().used == 1
        await asyncio.to_thread(wait_until, lambda: pool.stats().used == 0, 5.0)

    asyncio.run(main())


def test_a_lease_that_is_taken_when_the_request_is_over(app: Poolkit, pool: ConnectionPool) -> None:
    async def main() -> None:
        await begin(app, Exchange(), "/background/")
        await until(views.done)
        await until_home(pool)
        await views.seen.pop()

    asyncio.run(main())


def test_a_thread_that_goes_on_gets_a_lease_of_its_own(pool: ConnectionPool) -> None:
    """A worker thread that is used by one request after the other carries nothing over."""
    found: list[str] = []

    def query() -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT current_setting('work_mem')")
            found.append(cursor.fetchone()[0])
            cursor.execute("SET work_mem = '77MB'")

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.to_thread(query)

    async def main() -> None:
        exchange = Exchange()
        for _ in range(5):
            await begin(Poolkit(inner), exchange, "/", kind="websocket")
        await until_home(pool)

    asyncio.run(main())
    assert len(found) == 5
    assert "77MB" not in found


def test_leases_taken_on_the_loop_itself(
    pool: ConnectionPool, monkeypatch: pytest.MonkeyPatch, released_by: list[str]
) -> None:
    monkeypatch.setitem(os.environ, "DJANGO_ALLOW_ASYNC_UNSAFE", "1")

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        Item.objects.count()
        assert pool.stats().used == 1

    async def main() -> None:
        exchange = Exchange()
        await begin(Poolkit(inner), exchange, "/")
        assert pool.stats().used == 0

    asyncio.run(main())
    assert released_by
    assert threading.main_thread().name not in released_by


# -- the protocol


def test_a_websocket_gives_back_its_leases_at_its_end(pool: ConnectionPool) -> None:
    async def inner(scope: Any, receive: Any, send: Any) -> None:
        await sync_to_async(Item.objects.count)()
        assert pool.stats().used == 1
        raise RuntimeError("boom")

    async def main() -> None:
        with pytest.raises(RuntimeError, match="boom"):
            await begin(Poolkit(inner), Exchange(), "/", kind="websocket")
        assert pool.stats().used == 0

    asyncio.run(main())


def test_a_scope_of_another_type_passes_through() -> None:
    seen: list[tuple[Any, Any, Any]] = []

    async def inner(*args: Any) -> None:
        assert request.current() is None
        seen.append(args)

    async def main() -> None:
        exchange = Exchange()
        asked = {"type": "of_the_future"}
        await Poolkit(inner)(asked, exchange.receive, exchange.send)
        assert seen == [(asked, exchange.receive, exchange.send)]

    asyncio.run(main())


def test_wrappers_in_one_another_share_a_scope(pool: ConnectionPool) -> None:
    async def inner(scope: Any, receive: Any, send: Any) -> None:
        views.seen.append(scope[KEY])
        await sync_to_async(Item.objects.count)()

    async def between(scope: Any, receive: Any, send: Any) -> None:
        views.seen.append(scope[KEY])
        await Poolkit(inner)(scope, receive, send)
        assert pool.stats().used == 1, "only the outermost ends leases"

    async def main() -> None:
        await begin(Poolkit(between), Exchange(), "/")
        assert pool.stats().used == 0

    asyncio.run(main())
    assert views.seen[0] is views.seen[1]


def test_a_request_begun_in_the_context_of_another_is_its_own(pool: ConnectionPool) -> None:
    scopes = []

    async def inner(asked: Any, receive: Any, send: Any) -> None:
        scopes.append(request.current())
        if len(scopes) == 1:  # as servers do with a pipelined request
            exchange = Exchange()
            nested = Poolkit(inner)(scope("/"), exchange.receive, exchange.send)
            await asyncio.get_running_loop().create_task(nested)

    async def main() -> None:
        await begin(Poolkit(inner), Exchange(), "/")

    asyncio.run(main())
    assert scopes[0] is not scopes[1]


def test_the_application_of_a_project() -> None:
    app = get_asgi_application()
    assert isinstance(app, Poolkit)
    assert type(app.app).__name__ == "ASGIHandler"

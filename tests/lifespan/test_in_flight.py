"""Requests that are being served: counted, waited for, and cut."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import Any

import pytest

from django_poolkit.asgi import Poolkit
from django_poolkit.lifespan import in_flight
from tests.lifespan.support import Diary, Wire, looped, until
from tests.request_end.drive import Exchange, scope

pytestmark = pytest.mark.core


class Served:
    """An application whose requests end when they are told to."""

    def __init__(self, diary: Diary) -> None:
        self.end = asyncio.Event()
        self.diary = diary
        self.app = Poolkit(self._serve)

    async def _serve(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            raise ValueError("no lifespan")
        try:
            await self.end.wait()
        finally:
            await asyncio.sleep(0.01)
            self.diary.events.append("end request")

    def start(self, kind: str = "http") -> asyncio.Task[None]:
        """Begin a request."""
        exchange = Exchange()
        asked = scope("/", kind=kind)
        return asyncio.create_task(self.app(asked, exchange.receive, exchange.send))


@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_closing_waits_for_what_is_in_flight(diary: Diary, kind: str) -> None:
    @looped
    async def main() -> None:
        served = Served(diary)
        wire = Wire(served.app)
        await wire.ask("startup")
        request = served.start(kind)
        await until(lambda: in_flight.count() == 1)
        stopping = asyncio.create_task(wire.ask("shutdown"))
        await asyncio.sleep(0.05)
        assert not stopping.done()
        served.end.set()
        await stopping
        await request
        assert diary.events[2:] == ["end request", "closing a", "close a"]

    diary.declare("a")
    main()


@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_what_does_not_end_is_cut_and_may_clean_up(
    diary: Diary, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    @looped
    async def main() -> None:
        served = Served(diary)
        wire = Wire(served.app, **{"django_poolkit.lifespan": {"drain_timeout": 0.05}})
        await wire.ask("startup")
        request = served.start(kind)
        await until(lambda: in_flight.count() == 1)
        await wire.ask("shutdown")
        assert request.cancelled()
        assert diary.events[2:] == ["end request", "closing a", "close a"]

    diary.declare("a")
    main()
    assert "event=cut requests=1" in caplog.text
    assert "event=left" not in caplog.text


@looped
async def test_what_ignores_its_end_is_left_behind(
    diary: Diary, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(in_flight, "_FAREWELL", 0.05)
    release = asyncio.Event()

    async def stubborn(scope: Any, receive: Any, send: Any) -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    exchange = Exchange()
    app = Poolkit(stubborn)
    request = asyncio.create_task(app(scope("/"), exchange.receive, exchange.send))
    await until(lambda: in_flight.count() == 1)
    async with asyncio.timeout(2):
        await in_flight.drain(0.05)
    assert "event=left requests=1" in caplog.text
    release.set()
    await request
    assert in_flight.count() == 0


@looped
async def test_one_that_begins_as_the_last_ends_is_waited_for() -> None:
    first, second = in_flight.counted(), in_flight.counted()
    first.__enter__()
    draining = asyncio.create_task(in_flight.drain(5.0))
    await asyncio.sleep(0)
    first.__exit__(None, None, None)
    second.__enter__()
    await asyncio.sleep(0.02)
    assert not draining.done()
    second.__exit__(None, None, None)
    await draining


@looped
async def test_nothing_in_flight_is_nothing_to_wait_for() -> None:
    async with asyncio.timeout(0.5):
        await in_flight.drain(60.0)


@looped
async def test_a_request_counts_once_and_ends_whatever_becomes_of_it(diary: Diary) -> None:
    seen = []

    async def fails(scope: Any, receive: Any, send: Any) -> None:
        seen.append(in_flight.count())
        raise RuntimeError("boom")

    exchange = Exchange()
    app = Poolkit(Poolkit(fails))
    with pytest.raises(RuntimeError, match="boom"):
        await app(scope("/"), exchange.receive, exchange.send)
    assert seen == [1]
    assert in_flight.count() == 0


@looped
async def test_one_that_ends_on_another_loop_is_noticed() -> None:
    begun, release = threading.Event(), threading.Event()

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        begun.set()
        await asyncio.to_thread(release.wait)

    async def elsewhere() -> None:
        exchange = Exchange()
        await Poolkit(inner)(scope("/"), exchange.receive, exchange.send)

    thread = threading.Thread(target=lambda: asyncio.run(elsewhere()))
    thread.start()
    await asyncio.to_thread(begun.wait)
    draining = asyncio.create_task(in_flight.drain(20.0))
    await asyncio.sleep(0.01)
    release.set()
    async with asyncio.timeout(10):
        await draining
    await asyncio.to_thread(thread.join)


def test_a_forked_child_has_none_of_its_parents_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asyncio, "current_task", lambda: None)
    with in_flight.counted():
        child = os.fork()
        if child == 0:
            os._exit(in_flight.count())
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert in_flight.count() == 1

"""The clients of a flood, in a process of their own, against a small server of ours."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from aiohttp import web

from example_project.clients import Crowd
from example_project.processes import ChildFailed
from example_project.sending import send


class Answering:
    """A server in a thread: counts connections, requests at once, and paths."""

    def __init__(self, status: int = 200, wait: float = 0.0) -> None:
        self._status = status
        self._wait = wait
        self._now = 0
        self.peak = 0
        self.paths: Counter[str] = Counter()
        self.connections: set[Any] = set()

    async def answer(self, request: web.Request) -> web.Response:
        self.paths[request.path] += 1
        assert request.transport is not None
        self.connections.add(request.transport.get_extra_info("peername"))
        self._now += 1
        self.peak = max(self.peak, self._now)
        await asyncio.sleep(self._wait)
        self._now -= 1
        return web.Response(status=self._status)

    @contextmanager
    def running(self) -> Iterator[str]:
        loop = asyncio.new_event_loop()

        async def start() -> str:
            app = web.Application()
            app.router.add_route("*", "/{path:.*}", self.answer)
            self._runner = web.AppRunner(app, shutdown_timeout=0.1)
            await self._runner.setup()
            await web.TCPSite(self._runner, "127.0.0.1", 0, backlog=512).start()
            host, port = self._runner.addresses[0][:2]
            return f"http://{host}:{port}/"

        thread = Thread(target=loop.run_forever)
        thread.start()
        try:
            yield asyncio.run_coroutine_threadsafe(start(), loop).result(30)
        finally:
            asyncio.run_coroutine_threadsafe(self._runner.cleanup(), loop).result(30)
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()


def crowd(url: str, **changes: Any) -> Crowd:
    values = {"clients": 40, "ramp": 0.2, "hold": 0.5, "patience": 30.0, "path": "p{number}/"}
    return Crowd(url, **{**values, **changes})


def test_all_of_them_are_there_at_once_and_each_asks_again_on_its_connection(tmp_path: Path):
    server = Answering(wait=1.0)
    with server.running() as url:
        report = send(crowd(url, numbers=30, hold=1.5), tmp_path / "log")

    assert report["over"]
    assert report["in_flight"] == 0
    assert report["peak_in_flight"] == server.peak == len(server.connections) == 40
    assert report["requests"] == server.paths.total() > 40
    assert report["failures"] == {}
    assert 1.0 <= report["p50"] <= report["p99"]
    # Each its own page, from the first again where there are not as many.
    assert len(server.paths) == 30
    assert "/p00001/" in server.paths


def test_how_it_goes_is_heard_meanwhile(tmp_path: Path):
    heard: list[Any] = []
    server = Answering(wait=1.5)
    with server.running() as url:
        report = send(crowd(url, ramp=0.0, hold=0.0), tmp_path / "log", heard.append)

    assert heard[-1] == report
    assert [each["over"] for each in heard] == [False] * (len(heard) - 1) + [True]
    assert heard[0]["in_flight"] == 40
    # Nobody asks again after the time, and who is under way is waited for.
    assert report["requests"] == 40


@pytest.mark.parametrize(
    ("status", "patience", "kind"), [(503, 30.0, "503"), (200, 0.2, "client timeout")]
)
def test_a_request_that_fails_is_counted_and_not_repeated_at_once(
    tmp_path: Path, status: int, patience: float, kind: str
):
    server = Answering(status, wait=0.0 if status == 503 else 20.0)
    with server.running() as url:
        crowd_ = crowd(url, clients=5, ramp=0.0, hold=0.5, patience=patience)
        report = send(crowd_, tmp_path / "log")

    assert report["failures"] == {kind: 5}
    assert report["timeouts"] == 5


def test_clients_that_end_too_early_are_an_error_with_their_last_words(tmp_path: Path):
    with pytest.raises(
        ChildFailed, match=r"the clients ended with status 1\n(.*\n)*.*should be absolute"
    ):
        send(crowd("nowhere"), tmp_path / "log")

"""The client session for code without an event loop: threads, interrupts, and what it returns."""

from __future__ import annotations

import asyncio
import contextvars
import signal
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError
from typing import Any

import aiohttp
import pytest
from django.core.exceptions import SynchronousOnlyOperation

from django_poolkit import PoolClosed
from django_poolkit.http.background import NAME, background
from django_poolkit.http.shared import SharedClientSession
from django_poolkit.http.sync import SyncResponse
from django_poolkit.testing.waiting import wait_until
from tests.http.support import MakeSession
from tests.http.upstream import Upstream


def test_the_answer_is_read_whole(session: SharedClientSession, upstream: Upstream) -> None:
    response = session.sync.post(upstream.url(), json={"a": 1}, params={"q": "ü"})
    assert type(response) is SyncResponse
    assert response.status == 200
    assert response.headers["content-TYPE"] == "application/json; charset=utf-8"
    assert response.url == upstream.url("/echo?q=%C3%BC")
    assert response.json()["body"] == '{"a": 1}'
    assert session.stats().used == 0
    with pytest.raises(FrozenInstanceError):
        response.status = 500  # type: ignore[misc]


def test_each_verb_is_the_one_that_is_sent(
    session: SharedClientSession, upstream: Upstream
) -> None:
    for verb in ("get", "post", "put", "patch", "delete", "options"):
        assert getattr(session.sync, verb)(upstream.url()).json()["method"] == verb.upper()
    assert session.sync.head(upstream.url()).body == b""
    assert session.sync.request("GET", upstream.url()).status == 200
    assert session.sync.head(upstream.url("/redirect?to=/echo")).status == 302
    assert session.sync.get(upstream.url("/redirect?to=/echo")).status == 200


@pytest.mark.parametrize(
    ("kind", "body", "text"),
    [
        ("text/plain; charset=latin-1", "ä".encode("latin-1"), "ä"),
        ("text/plain", "ä".encode(), "ä"),
        ('text/html; charset="utf-16"', "ä".encode("utf-16"), "ä"),
        ("text/plain; charset=no-such-thing", "ä".encode(), "ä"),
        ("", b"", ""),
    ],
)
def test_the_text_is_decoded_as_the_answer_says(kind: str, body: bytes, text: str) -> None:
    assert SyncResponse(200, {"Content-Type": kind}, "", body).text() == text


def test_what_is_no_json_is_an_error() -> None:
    with pytest.raises(ValueError):
        SyncResponse(200, {}, "", b"<html>").json()
    assert SyncResponse(200, {}, "", "ä".encode("utf-16")).text is not None
    with pytest.raises(UnicodeDecodeError):
        SyncResponse(200, {}, "", b"\xff").text()


def test_fifty_threads_share_one_session_within_its_limit(
    make: MakeSession, upstream: Upstream
) -> None:
    session = make(limit=5, connect=60.0, total=60.0)
    most: list[int] = []

    def work(_: int) -> None:
        for _ in range(20):
            assert session.sync.get(upstream.url()).status == 200
            most.append(upstream.connections)

    with ThreadPoolExecutor(50) as executor:
        list(executor.map(work, range(50)))
    stats = session.stats()
    assert (stats.acquired, stats.used, stats.waiters) == (1000, 0, 0)
    assert stats.connects == stats.size == max(most) == 5
    assert [thread.name for thread in threading.enumerate()].count(NAME) == 1


def test_in_the_thread_of_a_running_loop_it_is_refused(
    session: SharedClientSession, upstream: Upstream
) -> None:
    async def main() -> None:
        with pytest.raises(SynchronousOnlyOperation, match=r"await client_sessions\['api'\]\.put"):
            session.sync.put(upstream.url())

    asyncio.run(main())
    assert upstream.seen == []


def test_aiohttps_errors_are_raised_as_they_are(make: MakeSession, upstream: Upstream) -> None:
    session = make(raise_for_status=True)
    with pytest.raises(aiohttp.ClientResponseError) as caught:
        session.sync.get(upstream.url("/nowhere"))
    assert caught.value.status == 404
    # That no loop runs in this thread is as it should be, and no part of what went wrong.
    assert "no running event loop" not in "".join(traceback.format_exception(caught.value))
    with pytest.raises(aiohttp.ServerDisconnectedError):
        session.sync.post(upstream.url("/drop"))
    with pytest.raises(TypeError, match="nonsense"):
        session.sync.get(upstream.url(), nonsense=True)
    with pytest.raises(aiohttp.InvalidURL):
        session.sync.get("relative")
    assert session.stats().used == 0


def test_what_interrupts_the_waiting_thread_ends_the_request(
    session: SharedClientSession, upstream: Upstream
) -> None:
    class Interrupted(BaseException):
        pass

    def interrupt(number: int, frame: object) -> None:
        raise Interrupted

    def when_it_waits() -> None:
        wait_until(lambda: upstream.held == 1)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, interrupt)
    thread = threading.Thread(target=when_it_waits)
    try:
        thread.start()
        with pytest.raises(Interrupted):
            session.sync.get(upstream.url("/hold"))
    finally:
        thread.join(10)
        signal.signal(signal.SIGUSR1, before)
    wait_until(lambda: session.stats().used == 0)
    assert session.stats().errors == {"CancelledError": 1}


def test_a_call_that_is_under_way_as_the_loop_stops_ends_with_an_error(
    session: SharedClientSession, upstream: Upstream
) -> None:
    with ThreadPoolExecutor(1) as executor:
        call = executor.submit(session.sync.get, upstream.url("/hold"))
        wait_until(lambda: upstream.held == 1)
        background.stop(5.0)
        with pytest.raises(PoolClosed, match="are being closed"):
            call.result(5)
        # What was open on that loop has been closed with it, and by it.
        assert session._opened == {}
        # It is only the loop that has ended: the next call gets another.
        assert executor.submit(session.sync.get, upstream.url()).result(5).status == 200


def test_context_variables_reach_the_trace_of_a_call(make: MakeSession, upstream: Upstream) -> None:
    variable = contextvars.ContextVar("variable", default="none")
    seen: list[str] = []

    async def note(session: Any, context: Any, params: Any) -> None:
        seen.append(variable.get())

    trace = aiohttp.TraceConfig()
    trace.on_request_start.append(note)
    session = make(trace_configs=[trace])
    variable.set("request 7")
    session.sync.get(upstream.url())
    assert seen == ["request 7"]

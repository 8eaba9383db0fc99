"""What is sent again: idempotent requests alone, a few times, within a budget."""

from __future__ import annotations

import asyncio
import io
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import aiohttp
import pytest

from django_poolkit.http.retries import Budget
from django_poolkit.http.shared import SharedClientSession
from django_poolkit.pools.chance import chance
from tests.http.support import MakeSession
from tests.http.upstream import Upstream


@pytest.fixture(autouse=True)
def delays(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that a retry would have waited for, of which none is waited."""
    asked: list[float] = []
    sleep = asyncio.sleep

    async def skip(seconds: float) -> None:
        asked.append(seconds)
        await sleep(0)

    monkeypatch.setattr("asyncio.sleep", skip)
    monkeypatch.setattr(chance, "uniform", lambda low, high: high)
    return asked


def test_by_itself_nothing_is_sent_again(session: SharedClientSession, upstream: Upstream) -> None:
    for verb in ("get", "post"):
        assert getattr(session.sync, verb)(upstream.url("/flaky?fail=9&status=503")).status == 503
    assert upstream.count("/flaky") == 2


@pytest.mark.parametrize("verb", ["get", "options", "put", "delete"])
def test_an_idempotent_request_is_sent_until_it_is_answered(
    make: MakeSession, upstream: Upstream, delays: list[float], verb: str
) -> None:
    session = make(RETRIES=3)
    response = getattr(session.sync, verb)(upstream.url("/flaky?fail=3&status=503"))
    assert (response.status, response.text()) == (200, "at last")
    assert delays == [0.1, 0.2, 0.4]
    assert upstream.connections <= 4


@pytest.mark.parametrize("verb", ["post", "patch"])
@pytest.mark.parametrize("how", ["status=503", ""])
def test_one_that_is_not_is_sent_once(
    make: MakeSession, upstream: Upstream, verb: str, how: str
) -> None:
    session = make(RETRIES=3)
    if how:
        assert getattr(session.sync, verb)(upstream.url(f"/flaky?fail=1&{how}")).status == 503
    else:
        with pytest.raises(aiohttp.ServerDisconnectedError):
            getattr(session.sync, verb)(upstream.url("/flaky?fail=1"))
    assert upstream.count("/flaky") == 1


def test_retries_are_as_many_as_the_setting_says_and_no_more(
    make: MakeSession, upstream: Upstream
) -> None:
    session = make(RETRIES=2)
    assert session.sync.get(upstream.url("/flaky?fail=9&status=502")).status == 502
    assert upstream.count("/flaky") == 3
    with pytest.raises(aiohttp.ServerDisconnectedError):
        session.sync.get(upstream.url("/drop"))
    # aiohttp would ask once more by itself.
    assert upstream.count("/drop") == 3
    assert session.stats().errors == {"ServerDisconnectedError": 3}


def test_other_answers_are_answers(make: MakeSession, upstream: Upstream) -> None:
    session = make(RETRIES=2)
    for status in (500, 501, 404, 429):
        assert session.sync.get(upstream.url(f"/flaky?fail=9&status={status}")).status == status
    assert upstream.count("/flaky") == 4


def test_the_server_may_say_when(
    make: MakeSession, upstream: Upstream, delays: list[float]
) -> None:
    session = make(RETRIES=1)
    assert session.sync.get(upstream.url("/flaky?fail=1&status=503&after=4")).status == 200
    assert delays == [4.0]
    upstream.seen.clear()
    # It asks for more than anybody would wait for, who waits for this answer.
    assert session.sync.get(upstream.url("/flaky?fail=1&status=503&after=6")).status == 503
    assert delays == [4.0]
    upstream.seen.clear()
    for past in ("Fri, 31 Dec 1999 23:59:59 GMT", "Fri, 31 Dec 1999 23:59:59 -0000", "soon"):
        assert (
            session.sync.get(upstream.url(f"/flaky?fail=1&status=503&after={past}")).status == 200
        )
        upstream.seen.clear()
    future = "Fri, 31 Dec 2199 23:59:59 GMT"
    assert session.sync.get(upstream.url(f"/flaky?fail=1&status=503&after={future}")).status == 503


def test_a_server_that_is_away_for_a_moment_is_asked_again(make: MakeSession) -> None:
    session = make(RETRIES=3)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(aiohttp.ClientConnectorError):
        session.sync.get(f"http://127.0.0.1:{port}/")
    stats = session.stats()
    assert (stats.connect_errors, stats.connecting) == (4, 0)
    assert stats.errors == {"ClientConnectorError": 4}


def test_who_waited_in_vain_does_not_wait_again(make: MakeSession, upstream: Upstream) -> None:
    session = make(RETRIES=3, sock_read=0.1)
    with pytest.raises(aiohttp.SocketTimeoutError):
        session.sync.get(upstream.url("/hold"))
    assert upstream.count("/hold") == 1
    upstream.let_go()


def test_a_server_that_cannot_prove_itself_is_not_asked_again(
    make: MakeSession, secure: Upstream
) -> None:
    session = make(RETRIES=3)
    with pytest.raises(aiohttp.ClientConnectorCertificateError):
        session.sync.get(secure.url())
    assert session.stats().connect_errors == 1


def test_a_body_that_can_be_read_once_is_sent_once(make: MakeSession, upstream: Upstream) -> None:
    session = make(RETRIES=3)
    url = upstream.url("/flaky?fail=1&status=503")
    assert session.sync.put(url, data=io.BytesIO(b"a" * 10)).status == 503
    assert upstream.count("/flaky") == 1
    upstream.seen.clear()
    assert session.sync.put(url, data=b"a" * 10).status == 200
    assert [seen.body for seen in upstream.seen] == [b"a" * 10] * 2


def test_an_answer_that_is_not_taken_leaves_its_place_to_the_next(
    make: MakeSession, upstream: Upstream
) -> None:
    session = make(RETRIES=1, limit=1, connect=1.0)
    response = session.sync.get(upstream.url("/flaky?fail=1&status=503&size=5000000"))
    assert response.status == 200


def test_redirects_are_followed_within_retries(make: MakeSession, upstream: Upstream) -> None:
    session = make(RETRIES=1)
    assert session.sync.get(upstream.url("/redirect?to=/flaky?fail=1%26status=503")).status == 200


def test_retries_are_no_more_than_their_share(make: MakeSession, upstream: Upstream) -> None:
    session = make(RETRIES=1, RETRY_BUDGET=0.1)
    for _ in range(60):
        session.sync.get(upstream.url("/flaky?fail=999&status=503"))
    # The ten that are free, and one for each ten requests.
    assert upstream.count("/flaky") == 60 + 10 + 5


def test_a_budget_grows_with_requests_up_to_its_reserve() -> None:
    budget = Budget(0.5)
    assert sum(budget.spend() for _ in range(20)) == 10
    budget.earn()
    assert not budget.spend()
    budget.earn()
    assert budget.spend()
    for _ in range(100):
        budget.earn()
    assert sum(budget.spend() for _ in range(20)) == 10


@contextmanager
def forgetful_server() -> Iterator[tuple[str, list[bytes]]]:
    """Keeps a connection after its first answer, and hangs up on its second request."""
    seen: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                seen.append(connection.recv(65536))
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                if late := connection.recv(65536):
                    seen.append(late)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/", seen
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)


def test_a_connection_that_died_while_idle_costs_one_more_request_and_only_where_it_may(
    session: SharedClientSession,
) -> None:
    with forgetful_server() as (url, seen):
        assert session.sync.get(url).body == b"ok"
        assert session.sync.get(url).body == b"ok"  # the second try, of aiohttp's own
        assert [head.split()[0] for head in seen] == [b"GET"] * 3
        with pytest.raises(aiohttp.ServerDisconnectedError):
            session.sync.post(url)
        assert [head.split()[0] for head in seen[3:]] == [b"POST"]


def test_timeouts_hold_over_all_tries(
    make: MakeSession, upstream: Upstream, monkeypatch: Any
) -> None:
    monkeypatch.undo()  # this one does wait
    session = make(RETRIES=10, total=0.5)
    with pytest.raises(TimeoutError):
        session.sync.get(upstream.url("/flaky?fail=99&status=503&after=1"))
    assert session.stats().used == 0

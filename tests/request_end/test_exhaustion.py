"""A request that a pool had no connection for is answered with a small, honest 503."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest
from django.core.signals import got_request_exception

from django_poolkit import exhaustion
from django_poolkit.pools.errors import PoolError, PoolPaused, PoolTimeout, TooManyWaiters
from django_poolkit.pools.postgres import ConnectionPool
from django_poolkit.testing.waiting import wait_until
from tests.request_end.conftest import UNCLOSED, free
from tests.request_end.drive import Answered

pytestmark = pytest.mark.filterwarnings(UNCLOSED)

WAYS = [
    f"{protocol}+{what}"
    for protocol in ("wsgi", "asgi")
    for what in ("wrapper", "middleware", "wrapper+middleware")
]
Serve = Callable[..., Any]

every_way = pytest.mark.parametrize("way", WAYS)


def is_503(answered: Answered) -> bool:
    assert answered.error is None
    assert answered.complete
    return answered.status == 503 and answered.headers["cache-control"] == "no-store"


@every_way
@pytest.mark.parametrize("view", ["count", "acount", "template", "drf", "wrapped", "own_500"])
def test_a_view_without_a_connection(
    way: str, view: str, serve: Serve, full: ConnectionPool
) -> None:
    answered = serve(way).get(f"/{view}/")
    assert is_503(answered)
    assert 1 <= int(answered.headers["retry-after"]) <= 3
    assert "set-cookie" not in answered.headers
    assert full.stats().timeouts > 0


@every_way
@pytest.mark.parametrize("debug", [False, True])
def test_an_inner_middleware_without_a_connection(
    way: str, debug: bool, serve: Serve, full: ConnectionPool
) -> None:
    # Django has made a finished 500 of it, by the time that ours sees it.
    answered = serve(way, "queries", DEBUG=debug).get("/count/")
    assert is_503(answered)
    assert b"Traceback" not in answered.body


@every_way
@pytest.mark.parametrize("debug", [False, True])
def test_debug_changes_nothing(way: str, debug: bool, serve: Serve, full: ConnectionPool) -> None:
    assert is_503(serve(way, DEBUG=debug).get("/count/"))


@every_way
def test_errors_that_django_lets_pass(way: str, serve: Serve, full: ConnectionPool) -> None:
    assert is_503(serve(way, "queries", DEBUG_PROPAGATE_EXCEPTIONS=True).get("/count/"))


@pytest.mark.parametrize("way", ["wsgi+wrapper", "asgi+wrapper"])
def test_the_error_of_a_pool_that_django_does_not_know(
    way: str, serve: Serve, pool: ConnectionPool
) -> None:
    server = serve(way, "raises_like_a_pool", DEBUG_PROPAGATE_EXCEPTIONS=True)
    assert is_503(server.get("/count/"))


@every_way
def test_too_many_waiters(way: str, serve: Serve, full: ConnectionPool) -> None:
    timeouts = full.stats().timeouts

    def wait() -> None:
        with full.lease(10.0):
            pass

    waiter = threading.Thread(target=wait)
    waiter.start()
    full.max_waiting, before = 1, full.max_waiting
    try:
        wait_until(lambda: full.stats().waiters == 1)
        answered = serve(way).get("/count/")
    finally:
        full.max_waiting = before
        free()
        waiter.join()
    assert is_503(answered)
    assert full.stats().timeouts == timeouts


@every_way
def test_a_paused_pool(way: str, serve: Serve, pool: ConnectionPool) -> None:
    pool.pause()
    try:
        assert is_503(serve(way).get("/count/"))
    finally:
        pool.resume()


@every_way
@pytest.mark.parametrize(
    ("view", "status"), [("caught", 200), ("caught_404", 404), ("caught_404_in_context", 404)]
)
def test_a_view_that_answers_by_itself_keeps_its_answer(
    way: str, view: str, status: int, serve: Serve, full: ConnectionPool
) -> None:
    assert serve(way).get(f"/{view}/").status == status


@every_way
@pytest.mark.parametrize("view", ["boom", "aboom"])
def test_other_errors_stay_what_they_are(
    way: str, view: str, serve: Serve, pool: ConnectionPool
) -> None:
    assert serve(way).get(f"/{view}/").status == 500


@every_way
@pytest.mark.parametrize(
    ("how", "again"),
    [("nothing", True), ("autocommit", False), ("atomic", False), ("rolled-back", True)],
)
def test_retry_after_only_where_nothing_was_committed(
    way: str, how: str, again: bool, serve: Serve, pool: ConnectionPool
) -> None:
    answered = serve(way).get(f"/write/{how}/")
    assert is_503(answered)
    assert ("retry-after" in answered.headers) == again


@every_way
@pytest.mark.parametrize("where", ["inner", "outer"])
def test_no_retry_after_where_a_middleware_wrote_on_the_way_out(
    way: str, where: str, serve: Serve, full: ConnectionPool
) -> None:
    if where == "inner":
        server = serve(way, "writes_after")
    else:
        server = serve(way, outer="writes_after")
    answered = server.get("/count/")
    assert is_503(answered)
    # What is outside of the middleware is outside of what it knows.
    assert ("retry-after" in answered.headers) == (where == "outer" and "wrapper" not in way)


@every_way
def test_the_answer_to_head(way: str, serve: Serve, full: ConnectionPool) -> None:
    server = serve(way)
    whole, head = server.get("/count/"), server.get("/count/", method="HEAD")
    assert is_503(head)
    assert head.body == b""
    assert head.headers["content-length"] == str(len(whole.body))


@every_way
@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", "text/plain; charset=utf-8"),
        ("*/*", "text/plain; charset=utf-8"),
        ("text/html,application/xhtml+xml,*/*;q=0.8", "text/html; charset=utf-8"),
        ("application/json", "application/problem+json"),
        ("text/html;q=0.5, application/json;q=0.9", "application/problem+json"),
        ("text/html;q=nonsense", "text/plain; charset=utf-8"),
    ],
)
def test_the_answer_is_of_the_kind_that_was_asked_for(
    way: str, accept: str, kind: str, serve: Serve, full: ConnectionPool
) -> None:
    answered = serve(way).get("/count/", accept=accept)
    assert is_503(answered)
    assert answered.headers["content-type"] == kind
    assert answered.headers["content-length"] == str(len(answered.body))
    if "json" in kind:
        assert json.loads(answered.body)["status"] == 503


@every_way
def test_the_answer_names_no_pool_and_no_host(
    way: str, serve: Serve, full: ConnectionPool, params: dict[str, Any]
) -> None:
    answered = serve(way).get("/count/")
    whole = answered.body.decode() + repr(answered.headers)
    for secret in (full.name, params["host"], str(params["port"]), params["user"]):
        assert secret not in whole


@every_way
@pytest.mark.parametrize("inner", [(), ("queries",)])
def test_one_line_in_the_log(
    way: str,
    inner: tuple[str, ...],
    serve: Serve,
    full: ConnectionPool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, "django_poolkit.request"):
        serve(way, *inner).get("/count/?token=secret")
    lines = [record for record in caplog.records if record.name == "django_poolkit.request"]
    (line,) = (record.getMessage() for record in lines)
    assert line.startswith("pool=default event=answered_503 reason=timeout waited=0.0")
    assert line.endswith("method=GET path=/count/")


@pytest.mark.parametrize("way", ["wsgi+middleware", "asgi+middleware"])
@pytest.mark.parametrize("view", ["count", "template", "drf"])
def test_the_middleware_keeps_an_overload_out_of_the_error_reports(
    way: str, view: str, serve: Serve, full: ConnectionPool, caplog: pytest.LogCaptureFixture
) -> None:
    reported: list[Any] = []

    def report(**facts: Any) -> None:
        reported.append(facts)

    got_request_exception.connect(report)
    try:
        serve(way).get(f"/{view}/")
    finally:
        got_request_exception.disconnect(report)
    assert not reported
    assert not [record for record in caplog.records if record.name == "django.request"]


# -- the parts


def test_a_path_cannot_forge_a_line(caplog: pytest.LogCaptureFixture) -> None:
    exhaustion.note("cut", PoolTimeout("", pool="p"), method="GET", path="/a\nb")
    assert "path=/a%0Ab" in caplog.records[0].getMessage()


@pytest.mark.parametrize("kind", [PoolTimeout, PoolPaused, TooManyWaiters])
def test_an_exhaustion_is_found_behind_other_errors(kind: type[PoolError]) -> None:
    error, outer = kind("none left", pool="default"), ValueError("while handling it")
    outer.__context__ = error
    assert exhaustion.find(outer) is error
    assert exhaustion.find(ExceptionGroup("tasks", [KeyError(), outer])) is error


def test_an_exhaustion_that_was_put_away_is_not_found() -> None:
    outer = ValueError("another matter")
    outer.__context__ = PoolTimeout("none left")
    outer.__suppress_context__ = True  # raise ... from None
    assert exhaustion.find(outer) is None


def test_errors_in_a_circle_are_searched_once() -> None:
    first, second = ValueError(), ValueError()
    first.__cause__, second.__cause__ = second, first
    assert exhaustion.find(first) is None

"""Health is answered by every way that leads to it, and by most before anything else can fail."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

import pytest

from django_poolkit import registry
from django_poolkit.health import front
from django_poolkit.health.report import Figures, Report, Result
from django_poolkit.lifespan import in_flight
from tests.health.drive import BEFORE, NOTED, WAYS, WRAPPERS, Site, reached

pytestmark = pytest.mark.core

TOKEN = "correct-horse-battery"
Serve = Callable[..., Site]

every_way = pytest.mark.parametrize("way", WAYS)
before = pytest.mark.parametrize("way", BEFORE)
wrappers = pytest.mark.parametrize("way", WRAPPERS)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Result]:
    """Results that every group has, for each test to fill in."""
    results: list[Result] = []

    def report(group: str) -> Report:
        return Report(group=group, results=tuple(results), age=0.0, max_age=1.0)

    async def areport(group: str) -> Report:
        return report(group)

    monkeypatch.setattr(front, "report", report)
    monkeypatch.setattr(front, "areport", areport)
    return results


FIGURES = Figures(size=4, max_size=8, used=3, idle=1, waiters=2, utilization=0.375)
PASSES = Result(name="db:default", status="pass", latency=0.001, figures=FIGURES)
FAILS = Result(name="db:default", status="fail", reason="unreachable")
WARNS = Result(name="db:default", status="warn", reason="saturated", figures=FIGURES)


# -- which path is for us


@pytest.mark.parametrize(
    ("path", "behind"),
    [
        ("/health/", ""),
        ("/health", ""),
        ("/health/live", "live"),
        ("/health/db/default", "db/default"),
        ("/health/db/default/", "db/default/"),
        ("/healthy", None),
        ("/healthy/live", None),
        ("/", None),
        ("", None),
        ("/a/health/live", None),
        ("/HEALTH/live", None),
    ],
)
def test_what_is_below_the_prefix(path: str, behind: str | None, settings: Any) -> None:
    settings.POOLKIT = {"HEALTH": {"PATH": "/health/"}}
    assert front.path_behind(path) == behind


@before
def test_without_a_prefix_the_application_gets_it_all(way: str, serve: Serve) -> None:
    site = serve(way, poolkit={"PATH": None}, settings={"ROOT_URLCONF": "tests.health.other"})
    assert site.get("/health/live").body == b"other"
    assert reached == ["/health/live"]


@every_way
def test_other_paths_are_the_applications(way: str, serve: Serve) -> None:
    assert serve(way).get("/healthy/live").body == b"other"
    assert reached == ["/healthy/live"]


@before
def test_a_mounted_application(way: str, serve: Serve, told: list[Result]) -> None:
    site = serve(way)
    if way.startswith("asgi"):
        app = site.asgi

        async def mounted(scope: Any, receive: Any, send: Any) -> None:
            await app({**scope, "root_path": "/shop"}, receive, send)

        site.asgi = mounted
        assert site.get("/shop/health/live").status == 200
    else:
        wsgi = site.wsgi
        site.wsgi = lambda environ, start: wsgi({**environ, "SCRIPT_NAME": "/shop"}, start)
        assert site.get("/health/live").status == 200
    assert reached == []


# -- what is answered


@every_way
def test_groups(way: str, serve: Serve, told: list[Result]) -> None:
    told.append(PASSES)
    site = serve(way)
    for group in ("live", "ready", "startup", "db", "db/default", "db/default/", ""):
        answered = site.get(f"/health/{group}")
        assert (answered.status, answered.body) == (200, b'{"status": "pass"}\n'), group
        assert answered.complete
        assert answered.headers["content-length"] == str(len(answered.body))
    assert reached == [] or "urls" in way


@every_way
@pytest.mark.parametrize(
    ("result", "status", "word"),
    [(PASSES, 200, "pass"), (WARNS, 200, "warn"), (FAILS, 503, "fail")],
)
def test_only_a_failure_is_503(
    way: str, result: Result, status: int, word: str, serve: Serve, told: list[Result]
) -> None:
    told.append(result)
    answered = serve(way).get("/health/db", accept="text/plain")
    assert (answered.status, answered.body.decode()) == (status, f"{word}\n")


@every_way
def test_the_settings_map_the_status(way: str, serve: Serve, told: list[Result]) -> None:
    told.append(WARNS)
    assert serve(way, poolkit={"STATUS_CODES": {"warn": 299}}).get("/health/db").status == 299


@every_way
def test_head(way: str, serve: Serve, told: list[Result]) -> None:
    told.append(FAILS)
    site = serve(way)
    whole, head = site.get("/health/db"), site.get("/health/db", method="HEAD")
    assert (head.status, head.body) == (503, b"")
    assert head.headers["content-length"] == str(len(whole.body))
    assert head.headers["content-type"] == "application/json"


@every_way
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "NONSENSE"])
def test_nothing_but_get_and_head(way: str, method: str, serve: Serve, told: list[Result]) -> None:
    middleware = ["django.middleware.csrf.CsrfViewMiddleware"]
    answered = serve(way, middleware=middleware).get("/health/db", method=method)
    assert (answered.status, answered.headers["allow"]) == (405, "GET, HEAD")


@every_way
@pytest.mark.parametrize("group", ["nonsense", "db/nonsense", "db/default/x", "http/s3same", "%00"])
def test_an_unknown_group_is_not_repeated(
    way: str, group: str, serve: Serve, told: list[Result]
) -> None:
    for debug in (False, True):
        answered = serve(way, settings={"DEBUG": debug}).get(f"/health/{group}?also=s3same")
        assert (answered.status, answered.body) == (404, b"Not Found\n")
        assert "s3same" not in repr(answered.headers)


@every_way
@pytest.mark.parametrize(
    "accept",
    ["", "*", "*/*", "text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2", ";q=", "\xff\x00,/"],
)
def test_an_accept_that_says_nothing_gets_json(
    way: str, accept: str, serve: Serve, told: list[Result]
) -> None:
    told.append(PASSES)
    headers = {"accept": accept} if accept else {}
    answered = serve(way).get("/health/db", **headers)
    assert (answered.status, answered.headers["content-type"]) == (200, "application/json")


@every_way
def test_no_cookie_is_set(way: str, serve: Serve, told: list[Result]) -> None:
    middleware = [
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
    ]
    site = serve(way, middleware=middleware, settings={"SESSION_SAVE_EVERY_REQUEST": True})
    answered = site.get("/health/db", accept="text/html")
    assert (answered.status, answered.headers.get("set-cookie")) == (200, None)


# -- what does not matter


HOSTILE = {
    "a host that is not allowed": (
        ["django.middleware.common.CommonMiddleware"],
        {"ALLOWED_HOSTS": ["shop.example"]},
    ),
    "a redirect to HTTPS": (
        ["django.middleware.security.SecurityMiddleware"],
        {"SECURE_SSL_REDIRECT": True},
    ),
    "a session backend that is down": (
        ["django.contrib.sessions.middleware.SessionMiddleware"],
        {"SESSION_ENGINE": "tests.health.broken_sessions"},
    ),
    "a redirect to www": (
        ["django.middleware.common.CommonMiddleware"],
        {"PREPEND_WWW": True},
    ),
    "logins for everything": (
        [
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
            "django.contrib.auth.middleware.LoginRequiredMiddleware",
        ],
        {"SESSION_ENGINE": "tests.health.broken_sessions"},
    ),
}


@before
@pytest.mark.parametrize("what", HOSTILE)
def test_the_rest_of_the_application_does_not_matter(
    way: str, what: str, serve: Serve, told: list[Result]
) -> None:
    middleware, settings = HOSTILE[what]
    site = serve(way, middleware=[*middleware, NOTED], settings=settings)
    answered = site.get("/health/ready", host="10.0.3.17:8000", cookie="sessionid=abc")
    assert (answered.status, answered.body) == (200, b'{"status": "pass"}\n')
    assert reached == []


@pytest.mark.parametrize("way", ["wsgi+urls", "asgi+urls"])
def test_the_view_asks_for_no_login(way: str, serve: Serve, told: list[Result]) -> None:
    middleware, _ = HOSTILE["logins for everything"]
    site = serve(
        way,
        middleware=middleware,
        settings={"SESSION_ENGINE": "django.contrib.sessions.backends.signed_cookies"},
    )
    assert site.get("/else/").status == 302
    assert site.get("/health/ready").status == 200


@wrappers
def test_an_application_that_is_broken_does_not_matter(
    way: str, serve: Serve, told: list[Result]
) -> None:
    site = serve(way)

    def broken(*_: Any) -> Any:
        raise AssertionError("the application was asked")

    wrapper = site.asgi if way.startswith("asgi") else site.wsgi
    wrapper.app = broken
    assert site.get("/health/live").status == 200


# -- who sees more


@every_way
def test_a_token_shows_details(way: str, serve: Serve, told: list[Result]) -> None:
    told.append(WARNS)
    site = serve(way, poolkit={"TOKEN": TOKEN})
    shown = json.loads(site.get("/health/db", authorization=f"Bearer {TOKEN}").body)
    assert shown["checks"]["db:default"]["reason"] == "saturated"
    for headers in ({}, {"authorization": "Bearer correct-horse-batterz"}):
        assert site.get("/health/db", **headers).body == b'{"status": "warn"}\n'
    assert site.get(f"/health/db?token={TOKEN}").body == b'{"status": "warn"}\n'
    assert site.get("/health/db", cookie=f"token={TOKEN}").body == b'{"status": "warn"}\n'


@every_way
def test_a_trusted_network_shows_details(way: str, serve: Serve, told: list[Result]) -> None:
    told.append(PASSES)
    site = serve(way, poolkit={"TRUSTED_NETWORKS": ["10.0.0.0/8"]})

    def sees(**facts: Any) -> bool:
        return "checks" in json.loads(site.get("/health/db", **facts).body)

    assert sees(client="10.1.2.3")
    assert not sees(client="192.0.2.1")
    assert not sees(client="")  # of a UNIX socket
    for header in ("x_forwarded_for", "forwarded", "x_real_ip", "via"):
        assert not sees(client="192.0.2.1", **{header: "10.1.2.3"})
        assert not sees(client="10.1.2.3", **{header: "192.0.2.1"})


# -- and its own failures


@every_way
def test_a_report_that_cannot_be_made_fails(
    way: str, serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def raises(group: str) -> Any:
        raise RuntimeError("postgres://teller:s3same@db/")

    monkeypatch.setattr(front, "report", raises)
    monkeypatch.setattr(front, "areport", raises)
    with caplog.at_level(logging.DEBUG):
        answered = serve(way, settings={"DEBUG": True}).get("/health/db")
    assert (answered.status, answered.body) == (503, b'{"status": "fail"}\n')
    assert "event=report_failed group=db error=RuntimeError" in caplog.messages
    assert "s3same" not in caplog.text


@every_way
def test_a_failure_is_no_error_of_the_sites(
    way: str, serve: Serve, told: list[Result], caplog: pytest.LogCaptureFixture
) -> None:
    told.append(FAILS)
    with caplog.at_level(logging.DEBUG):
        assert serve(way).get("/health/db").status == 503
    assert not [record for record in caplog.records if record.name == "django.request"]


# -- harmless


@before
def test_a_draining_process_is_alive_and_not_ready(way: str, serve: Serve) -> None:
    site = serve(way)
    assert site.get("/health/ready").status == 200
    registry.process.drain()
    try:
        assert site.get("/health/ready").status == 503
        assert site.get("/health/live").status == 200
    finally:
        registry.process.undrain()
    assert site.get("/health/ready").status == 200


def test_who_asks_for_health_is_not_in_flight(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = serve("asgi+wrapper")

    async def main() -> int:
        asked, go = asyncio.Event(), asyncio.Event()

        async def areport(group: str) -> Report:
            asked.set()
            await go.wait()
            return Report(group=group, results=())

        monkeypatch.setattr(front, "areport", areport)
        task = asyncio.create_task(site.aget("/health/live"))
        await asked.wait()
        count = in_flight.count()
        go.set()
        assert (await task).status == 200
        return count

    assert asyncio.run(main()) == 0


def test_the_event_loop_lends_no_thread(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    site = serve("asgi+wrapper")

    def refuse(self: Any, *_: Any) -> Any:
        raise AssertionError("a thread was asked for")

    monkeypatch.setattr(Executor, "submit", refuse)
    monkeypatch.setattr(asyncio.BaseEventLoop, "run_in_executor", refuse)
    threads = set(threading.enumerate())
    for group in ("live", "ready", "startup", "nonsense"):
        assert site.get(f"/health/{group}").status in (200, 404)
    assert set(threading.enumerate()) <= threads

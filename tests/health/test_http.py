"""The check of a client session: its figures, and what its upstream answers."""

from __future__ import annotations

import asyncio
import gc
import time

import pytest
from django.conf import settings
from django.test import override_settings

from django_poolkit import client_sessions, registry
from django_poolkit.health.http import HttpCheck
from django_poolkit.health.report import Figures, Result
from django_poolkit.http import background as background_module
from django_poolkit.http.background import background
from django_poolkit.testing.faults import silent_server
from tests.http.support import until
from tests.http.upstream import Upstream

CHECK = HttpCheck(session="api")


@pytest.fixture
def upstream():
    with Upstream() as server:
        yield server


@pytest.fixture
def make():
    """Return a function that sets what the client session `api` is."""
    layers = []

    def make(**options):
        poolkit = {**settings.POOLKIT, "HTTP": {"api": options}}
        layers.append(override_settings(POOLKIT=poolkit))
        layers[-1].enable()

    yield make
    for layer in reversed(layers):
        layer.disable()
    registry.sessions.close_all(5.0)
    registry.sessions.reopen()
    background.stop(5.0)
    gc.collect()


def verdict(result):
    return result.status, result.reason


def test_a_session_that_nobody_uses_passes_and_is_not_made(make):
    make()
    assert CHECK.look(0.8) == Result(name="http:api", status="pass")
    assert list(registry.sessions) == []


def test_without_a_url_it_looks_at_the_figures_only(make, upstream):
    make()
    client_sessions["api"].sync.get(upstream.url())
    result = CHECK.look(0.8)
    assert verdict(result) == ("pass", None)
    assert result.figures == Figures(
        size=1, max_size=100, used=0, idle=1, waiters=0, utilization=0.0
    )
    assert len(upstream.seen) == 1


def test_an_upstream_is_asked_where_the_settings_name_a_url(make, upstream):
    make(HEALTH_URL="/echo?up", base_url=upstream.url(""))
    assert verdict(CHECK.look(0.8)) == ("pass", None)
    assert [(seen.method, seen.path) for seen in upstream.seen] == [("GET", "/echo")]


def test_where_gevent_has_taken_the_threads_the_upstream_is_not_blamed(
    make, upstream, monkeypatch, caplog
):
    monkeypatch.setattr(background_module, "is_patched", lambda module: True)
    make(HEALTH_URL=upstream.url())
    assert verdict(CHECK.look(0.8)) == ("fail", "config_error")
    assert "event=probe_failed reason=config_error error=NoThread" in caplog.text
    assert upstream.seen == []


def test_an_upstream_that_answers_badly_is_told(make, upstream, caplog):
    make(HEALTH_URL=upstream.url("/no-such-s3cret"))
    for _ in range(3):
        assert verdict(CHECK.look(0.8)) == ("fail", "unreachable")
    assert caplog.text.count("event=probe_failed reason=unreachable error=status 404") == 1
    assert "s3cret" not in caplog.text


def test_an_upstream_is_asked_once_and_takes_no_retry_from_the_others(make, upstream):
    url = upstream.url("/flaky?fail=2&status=503&after=2")
    make(HEALTH_URL=url, RETRIES=3, RETRY_BUDGET=1e-9)
    assert verdict(CHECK.look(0.8)) == ("fail", "unreachable")
    assert upstream.count("/flaky") == 1
    for _ in range(11):  # which is more than the reserve
        assert verdict(CHECK.look(0.8)) in (("fail", "unreachable"), ("pass", None))
    upstream.seen.clear()
    assert client_sessions["api"].sync.get(upstream.url("/flaky?fail=1&status=503")).status == 200


def test_an_upstream_that_is_not_there_is_told(make, caplog):
    make(HEALTH_URL="http://127.0.0.1:9/s3cret")
    assert verdict(CHECK.look(0.8)) == ("fail", "unreachable")
    assert "error=ClientConnectorError" in caplog.text
    assert "s3cret" not in caplog.text
    assert "127.0.0.1" not in caplog.text


def test_an_upstream_that_says_nothing_is_given_up_in_time(make):
    with silent_server() as silent:
        make(HEALTH_URL=f"http://{silent.host}:{silent.port}/")
        started = time.monotonic()
        assert verdict(CHECK.look(0.5)) == ("fail", "timeout")
        assert time.monotonic() - started < 0.75
        stats = client_sessions["api"].stats()
        assert (stats.used, stats.waiters) == (0, 0)


def test_what_the_policy_refuses_is_a_mistake_in_the_settings(make, upstream):
    make(HEALTH_URL=upstream.url(), ALLOWED_HOSTS=["api.example.com"])
    assert verdict(CHECK.look(0.8)) == ("fail", "config_error")
    assert upstream.seen == []


def test_a_large_answer_is_not_read(make, upstream):
    make(HEALTH_URL=upstream.url("/bytes?n=100000000"), MAX_BODY=None)
    started = time.monotonic()
    assert verdict(CHECK.look(5.0)) == ("pass", None)
    assert time.monotonic() - started < 2.0


def test_a_session_with_waiters_is_saturated_and_asked_nothing(make, upstream):
    make(HEALTH_URL=upstream.url("/echo"), limit=1)

    async def main():
        session = client_sessions["api"]
        calls = [asyncio.create_task(_get(session, upstream.url("/hold"))) for _ in range(2)]
        await until(lambda: upstream.held == 1)  # it is connected, and stays so
        await until(lambda: (session.stats().used, session.stats().waiters) == (1, 1))
        result = await asyncio.to_thread(CHECK.look, 0.8)
        upstream.let_go()
        await asyncio.gather(*calls)
        await session.close()
        return result

    result = asyncio.run(main())
    assert verdict(result) == ("warn", "saturated")
    assert (result.figures.used, result.figures.waiters) == (1, 1)
    assert upstream.count("/echo") == 0


def test_a_session_in_which_nothing_moves_is_stuck(make, upstream):
    make(limit=1)

    async def main():
        session = client_sessions["api"]
        # On the loop in the background there is room, which helps nobody who waits on this one.
        await asyncio.to_thread(session.sync.get, upstream.url("/echo"))
        calls = [asyncio.create_task(_get(session, upstream.url("/hold"))) for _ in range(2)]
        await until(lambda: upstream.held == 1)
        await until(lambda: (session.stats().used, session.stats().waiters) == (1, 1))
        await until(lambda: session.stats().standstill > 0.2)
        result = await asyncio.to_thread(CHECK.look, 0.8)
        upstream.let_go()
        await asyncio.gather(*calls)
        assert verdict(await asyncio.to_thread(CHECK.look, 0.8)) == ("pass", None)
        return result

    with override_settings(POOLKIT={**settings.POOLKIT, "HEALTH": {"STUCK_AFTER": 0.2}}):
        assert verdict(asyncio.run(main())) == ("fail", "stuck")


async def _get(session, url):
    async with session.get(url) as response:
        await response.read()


def test_a_closed_session_fails(make, upstream):
    make(HEALTH_URL=upstream.url())

    async def main():
        await client_sessions["api"].open()
        await client_sessions["api"].close()

    asyncio.run(main())
    assert verdict(CHECK.look(0.8)) == ("fail", "closed")
    assert upstream.seen == []


def test_after_the_shutdown_no_session_is_made(make, upstream):
    make(HEALTH_URL=upstream.url())
    registry.sessions.shut_down()
    assert verdict(CHECK.look(0.8)) == ("fail", "closed")

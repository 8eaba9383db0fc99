"""What a client session counts, and that poolstatus and the metrics show it."""

from __future__ import annotations

import asyncio
import gc
import json
import re
import socket
import threading
from typing import Any

import aiohttp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from django_poolkit import registry
from django_poolkit.control import answers, collect, render
from django_poolkit.control.steer import _busy
from django_poolkit.http.figures import Call, Figures
from django_poolkit.http.shared import SharedClientSession
from django_poolkit.metrics.families import FAMILIES
from django_poolkit.metrics.readings import readings
from django_poolkit.pools.stats import PoolStats
from django_poolkit.testing.waiting import wait_until
from tests.http.support import MakeSession, read, until
from tests.http.upstream import Upstream


def sizes(stats: PoolStats) -> dict[str, int]:
    names = ("size", "idle", "used", "connecting", "waiters")
    return {name: getattr(stats, name) for name in names}


def test_what_there_is_at_each_moment(make: MakeSession, upstream: Upstream) -> None:
    session = make(limit=2)

    async def main() -> None:
        await session.open()
        assert sizes(session.stats()) == dict.fromkeys(sizes(session.stats()), 0)
        tasks = [asyncio.create_task(read(session, upstream.url("/hold"))) for _ in range(5)]
        await until(lambda: upstream.held == 2)
        stats = session.stats()
        assert sizes(stats) == {"size": 2, "idle": 0, "used": 2, "connecting": 0, "waiters": 3}
        assert (stats.max_size, stats.utilization, stats.saturated) == (2, 1.0, True)
        assert stats.oldest_lease > 0 < stats.oldest_waiter
        assert 0 < stats.standstill <= stats.oldest_lease
        upstream.let_go()
        await asyncio.gather(*tasks)
        stats = session.stats()
        assert sizes(stats) == {"size": 2, "idle": 2, "used": 0, "connecting": 0, "waiters": 0}
        assert (stats.acquired, stats.waited, stats.connects) == (5, 3, 2)
        assert (stats.wait.count, stats.use.count, stats.connect.count) == (3, 5, 2)
        assert stats.wait.sum > 0
        assert (stats.errors, stats.last_connect_error) == ({}, None)
        assert stats.standstill == 0

    asyncio.run(main())
    stats = session.stats()
    assert (stats.kind, stats.mode, stats.name, stats.aliases) == (
        "http",
        "request",
        "http:api",
        (),
    )
    assert sizes(stats)["size"] == 0


def test_a_connection_is_used_until_the_body_has_been_read(
    session: SharedClientSession, upstream: Upstream
) -> None:
    async def main() -> None:
        async with session.get(upstream.url("/bytes?n=2000000")) as response:
            assert session.stats().used == 1
            await response.read()
            assert session.stats().used == 0
        # Who keeps the reader keeps all of it.
        reader = (await session.get(upstream.url("/bytes?n=2000000"))).content
        gc.collect()
        assert len(await reader.read()) == 2_000_000
        assert session.stats().used == 0

    asyncio.run(main())
    wait_until(lambda: upstream.connections == 0)


@pytest.mark.filterwarnings("ignore:.*Connection.__del__:pytest.PytestUnraisableExceptionWarning")
def test_a_response_that_was_dropped_unread_takes_no_place_for_ever(
    make: MakeSession, upstream: Upstream
) -> None:
    session = make(limit=1)

    async def main() -> None:
        response = await session.get(upstream.url("/bytes?n=2000000"))
        assert (response.status, session.stats().used) == (200, 1)
        del response
        gc.collect()
        assert session.stats().used == 0
        assert b"GET" in await read(session, upstream.url())

    asyncio.run(main())


def test_waiting_in_vain_is_a_timeout(make: MakeSession, upstream: Upstream) -> None:
    session = make(limit=1, connect=0.2)

    async def main() -> None:
        task = asyncio.create_task(read(session, upstream.url("/hold")))
        await until(lambda: upstream.held == 1)
        with pytest.raises(aiohttp.ConnectionTimeoutError):
            await read(session, upstream.url())
        stats = session.stats()
        assert (stats.timeouts, stats.waiters, stats.connect_errors) == (1, 0, 0)
        assert stats.errors == {"ConnectionTimeoutError": 1}
        upstream.let_go()
        await task
        assert b"GET" in await read(session, upstream.url())

    asyncio.run(main())


def test_a_connect_that_fails_says_why_and_not_where(session: SharedClientSession) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
    with pytest.raises(aiohttp.ClientConnectorError):
        session.sync.get(url)
    stats = session.stats()
    assert (stats.connect_errors, stats.connecting, stats.size) == (1, 0, 0)
    assert stats.last_connect_error == "ClientConnectorError: ConnectionRefusedError"
    with Upstream() as server:
        session.sync.get(server.url())
        assert session.stats().last_connect_error is None


def test_who_sleeps_before_a_retry_has_no_connection(make: MakeSession, upstream: Upstream) -> None:
    session = make(limit=1, RETRIES=1)

    async def main() -> None:
        url = upstream.url("/flaky?fail=99&status=503&after=5")
        tasks = [asyncio.create_task(read(session, url)) for _ in range(3)]

        def idle() -> bool:
            return upstream.count("/flaky") == 3 and session.stats().idle == 1

        await until(lambda: idle() or any(task.done() for task in tasks))
        assert not any(task.done() for task in tasks)
        assert sizes(session.stats()) == {
            "size": 1, "idle": 1, "used": 0, "connecting": 0, "waiters": 0
        }  # fmt: skip
        assert session.stats().use.count == 3
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    asyncio.run(main())


def test_a_connection_that_comes_back_late_is_not_taken_for_the_next() -> None:
    figures = Figures()

    async def main() -> None:
        call = figures._call()
        for lease in (1, 2):
            with figures._lock:
                figures._acquire_locked(call)
            assert call.leases == lease
        figures.release(call, 1)
        assert figures.stats(name="", state="open", max_size=1, sockets=1).used == 1
        figures.release(call, 2)
        assert figures.stats(name="", state="open", max_size=1, sockets=1).used == 0

    asyncio.run(main())


def test_a_redirect_uses_one_connection_at_a_time(
    session: SharedClientSession, upstream: Upstream
) -> None:
    assert session.sync.get(upstream.url("/redirect?to=/echo")).status == 200
    stats = session.stats()
    assert (stats.acquired, stats.used, stats.use.count) == (2, 0, 2)


@pytest.fixture
def shown(session: SharedClientSession, upstream: Upstream) -> SharedClientSession:
    """One that has something to show."""
    session.sync.get(upstream.url())
    with pytest.raises(aiohttp.ServerDisconnectedError):
        session.sync.post(upstream.url("/drop?secret=1"))
    return session


def test_metrics_show_it(shown: SharedClientSession, upstream: Upstream) -> None:
    assert "http:api" in [each.name for each in registry.measured()]
    figures = {family.name: found for family, found in readings.take().items()}

    def number(name: str, key: str = "") -> float:
        return sum(figures[name]["http:api", key])

    assert number("poolkit_connections", "used") == 0
    assert number("poolkit_connections_max") == 100
    assert number("poolkit_acquires_total") >= 2
    assert number("poolkit_errors_total", "ServerDisconnectedError") >= 1
    labels = {key for found in figures.values() for key in found if key[0].startswith("http:")}
    # Counters of sessions that are gone stay, also those of other tests.
    assert all(re.fullmatch(r"http:[a-z]+", key[0]) for key in labels)
    assert not any("127.0.0.1" in text or "secret" in text for key in labels for text in key)
    assert len(figures) == len(FAMILIES)


def test_poolstatus_shows_it(shown: SharedClientSession) -> None:
    [found] = [each for each in answers.status({})["pools"] if each["kind"] == "http"]
    assert (found["name"], found["acquired"]) == ("http:api", 2)
    assert found["recent"]["use"]["count"] == 2
    json.dumps(found)
    assert "127.0.0.1" not in str(found)
    report = collect.collect(local=True)
    [total] = [each for each in report.totals if each["name"] == "http:api"]
    assert total["errors"] == {"ServerDisconnectedError": 1}
    text = [cell.text for table in render.tables(report) for row in table.rows for cell in row]
    assert "http:api" in text
    assert "ServerDisconnectedError 1" in text
    assert "pool=http:api" in render.line(report)
    assert all(
        verdict.pool != "http:api" for verdict in collect.collect(local=True, pins=True).verdicts
    )


def test_steering_leaves_it_alone(shown: SharedClientSession) -> None:
    for verb, arguments in (("pause", {"seconds": 5}), ("resume", {}), ("recycle", {})):
        outcome = answers.HANDLERS[verb](arguments)
        assert "http:api" not in [pool["name"] for pool in outcome["pools"]]
    for asked in ({"steerable": True}, {"databases": ["default"]}, {"databases": ["api"]}):
        assert all(pool["kind"] != "http" for pool in answers.status(asked)["pools"])
    status = answers.status({"leases": True, "steerable": True})
    assert _busy({**status, "pools": []})[0] is False


def test_closing_keeps_the_counts_of_the_metrics(shown: SharedClientSession) -> None:
    def acquires() -> float:
        [family] = [each for each in FAMILIES if each.name == "poolkit_acquires_total"]
        return sum(readings.take()[family]["http:api", ""])

    before = acquires()
    registry.sessions.close_all(5.0)
    assert shown.ended
    assert acquires() == before


class Told:
    """Tells figures of a request as aiohttp's tracing would."""

    def __init__(self, figures: Figures) -> None:
        self.figures = figures
        self.call = figures._call()

    def tell(self, step: str) -> None:
        params = type("Params", (), {"exception": OSError(), "response": None})
        if step == "release":
            self.figures.release(self.call, self.call.leases)
        else:
            getattr(self.figures, step)(self.call, params)


STEPS = ("_queued", "_unqueued", "_connect_begun", "_connected", "_reused", "release", "_failed")


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(STEPS)), max_size=40))
def test_no_order_of_events_leaves_something_behind(events: list[tuple[int, str]]) -> None:
    async def main() -> None:
        figures = Figures()
        told = [Told(figures) for _ in range(4)]
        for number, step in events:
            told[number].tell(step)
            stats = figures.stats(name="", state="open", max_size=1, sockets=3)
            assert stats.size == stats.idle + stats.used + stats.connecting
            assert stats.oldest_waiter >= 0 <= stats.oldest_lease
        for each in told:
            each.tell("_failed")
        stats = figures.stats(name="", state="open", max_size=1, sockets=0)
        assert (stats.waiters, stats.used, stats.connecting, stats.size) == (0, 0, 0, 0)
        assert stats.use.count == stats.acquired

    asyncio.run(main())


def test_the_requests_of_a_loop_that_has_ended_are_struck_out(
    session: SharedClientSession, upstream: Upstream
) -> None:
    loop = asyncio.new_event_loop()
    task = loop.create_task(read(session, upstream.url("/hold")))
    loop.run_until_complete(until(lambda: upstream.held == 1))
    assert session.stats().used == 1
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.close()
    assert session.stats().used == session.stats().size == 0
    del task
    gc.collect()
    assert session.stats().used == 0
    upstream.let_go()
    wait_until(lambda: upstream.connections == 0)


@pytest.mark.filterwarnings("ignore:Unclosed connection:ResourceWarning")  # aiohttp's own
def test_a_response_that_outlives_its_loop_takes_no_place(
    session: SharedClientSession, upstream: Upstream
) -> None:
    async def main() -> Any:
        response = await session.get(upstream.url("/stall"))
        assert session.stats().used == 1
        return response

    held = asyncio.run(main())
    assert session.stats().used == session.stats().size == 0
    assert not held.content.at_eof()
    del held
    gc.collect()
    upstream.let_go()
    wait_until(lambda: upstream.connections == 0)


def test_a_response_that_is_collected_in_the_middle_of_a_count_does_not_stop_it() -> None:
    """A collector runs at any line, and gives back what an unread response holds."""
    figures = Figures()

    async def main() -> Call:
        return figures._call()

    call = asyncio.run(main())

    class Response:
        def __del__(self) -> None:
            figures.release(call, call.leases)

    def count() -> None:
        with figures._lock:
            figures._acquire_locked(call)
            dropped: Any = Response()
            dropped.itself = dropped
            del dropped
            gc.collect()

    thread = threading.Thread(target=count, daemon=True)
    thread.start()
    thread.join(10.0)
    assert not thread.is_alive()
    stats = figures.stats(name="http:one", state="open", max_size=1, sockets=0)
    assert (stats.acquired, stats.used, stats.use.count) == (1, 0, 1)


def test_what_is_struck_out_may_change_meanwhile() -> None:
    figures = Figures()

    class Ended:
        """A loop that has been closed; to ask it has the other request collected."""

        def is_closed(self) -> bool:
            for other in calls:
                figures.release(other, other.leases)
            return True

    async def main() -> list[Call]:
        return [figures._call(), figures._call()]

    calls = asyncio.run(main())
    for call in calls:
        call.loop = Ended()  # type: ignore[assignment]
        with figures._lock:
            figures._acquire_locked(call)
    thread = threading.Thread(target=figures.forget_closed_loops, daemon=True)
    thread.start()
    thread.join(10.0)
    assert not thread.is_alive()
    assert figures.stats(name="http:one", state="open", max_size=1, sockets=0).used == 0

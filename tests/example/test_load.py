"""The load and what is counted of it, against a small server of our own."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest
from aiohttp import web

from example_project.load import Plan, drive, drive_alone
from example_project.measures import Measures
from example_project.runs import CROWD_MIX, EVERYDAY_MIX

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def serving(handler: Handler, use: Callable[[str], Awaitable[None]]) -> None:
    """Run `use(url)` while `handler` answers every request."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        await use(f"http://{host}:{port}/")
    finally:
        await runner.cleanup()


def run_load(handler: Handler, *, seconds: float = 0.5, in_flight: int = 4, **options) -> Measures:
    measures = Measures()

    async def use(url: str) -> None:
        await drive(Plan(url, seconds, in_flight), measures, **options)

    asyncio.run(serving(handler, use))
    return measures


async def well(request: web.Request) -> web.Response:
    return web.Response(status=201 if request.method == "POST" else 200)


def test_so_many_requests_are_under_way_as_were_asked_for():
    at_once: Counter[str] = Counter()

    async def handler(request: web.Request) -> web.Response:
        at_once["now"] += 1
        at_once["peak"] = max(at_once["peak"], at_once["now"])
        await asyncio.sleep(0.01)
        at_once["now"] -= 1
        return await well(request)

    measures = run_load(handler, in_flight=7)

    assert at_once["peak"] == measures.peak_in_flight == 7
    assert measures.in_flight == 0


def test_they_set_out_one_after_the_other():
    under_way: list[int] = []
    measures = Measures()

    async def handler(request: web.Request) -> web.Response:
        under_way.append(measures.in_flight)
        return await well(request)

    async def use(url: str) -> None:
        await drive(Plan(url, 2.5, 4), measures)

    asyncio.run(serving(handler, use))

    assert under_way[0] < 4
    assert max(under_way) == measures.peak_in_flight == 4


def test_answers_are_counted_by_kind_with_their_times():
    measures = run_load(well)

    assert measures.requests == len(measures.latencies) == measures.kinds.total() > 0
    assert set(measures.kinds) <= set(EVERYDAY_MIX)
    assert not measures.failures
    assert measures.recovered
    assert 0 < measures.percentile(0.5) <= measures.percentile(0.99) <= measures.percentile(1.0)
    assert measures.throughput == pytest.approx(measures.requests / measures.seconds)


@pytest.mark.parametrize(
    ("status", "headers", "kind", "timeouts"),
    [
        (503, {"Retry-After": "1"}, "503", True),
        (500, {"X-Error": "PoolTimeout"}, "PoolTimeout", True),
        (500, {"X-Error": "AdminShutdown"}, "AdminShutdown", False),
        (500, {}, "500", False),
        (404, {}, "404", False),
        # Not what was asked for: an order that was not placed is no success.
        (204, {}, "204", False),
    ],
)
def test_a_failure_is_counted_by_its_kind(status, headers, kind, timeouts):
    async def handler(request: web.Request) -> web.Response:
        return web.Response(status=status, headers=headers)

    measures = run_load(handler, seconds=0.1)

    assert set(measures.failures) == {kind}
    assert measures.failures.total() == measures.requests > 0
    assert (measures.timeouts, measures.errors) == (
        (measures.requests, 0) if timeouts else (0, measures.requests)
    )
    assert not measures.recovered


def test_a_server_that_hangs_up_is_a_failure():
    async def handler(request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    assert set(run_load(handler, seconds=0.1).failures) == {"ServerDisconnectedError"}


def test_at_half_time_something_is_done_while_the_load_goes_on():
    before: list[int] = []
    measures = Measures()

    async def half_time() -> None:
        before.append(measures.requests)

    async def use(url: str) -> None:
        await drive(Plan(url, 0.6, 2), measures, half_time)

    asyncio.run(serving(well, use))

    assert len(before) == 1
    assert 0 < before[0] < measures.requests


def test_every_run_of_a_plan_asks_for_the_same():
    def asked_for(seed: int, client: int) -> list[object]:
        next_call = Plan("http://x/", 1.0, 1, seed=seed).calls(client)
        return [next_call() for _ in range(200)]

    assert asked_for(1, 0) == asked_for(1, 0)
    assert asked_for(1, 0) != asked_for(1, 1)
    assert asked_for(1, 0) != asked_for(2, 0)


@pytest.mark.parametrize("mix", [EVERYDAY_MIX, CROWD_MIX])
def test_a_plan_asks_for_what_its_mix_has_in_it(mix):
    next_call = Plan("http://x/", 1.0, 1, mix).calls(0)

    assert {next_call().kind for _ in range(500)} == set(mix)


def test_the_clock_of_a_run_goes_on_until_its_last_answer():
    seconds: list[float] = []
    measures = Measures()

    async def slow(request: web.Request) -> web.Response:
        started = asyncio.get_running_loop().time()
        while asyncio.get_running_loop().time() < started + 0.6:
            await asyncio.sleep(0.01)
            seconds.append(measures.seconds)
        return await well(request)

    async def use(url: str) -> None:
        await drive(Plan(url, 0.1, 1), measures)

    asyncio.run(serving(slow, use))

    assert max(seconds) > 0.2
    assert measures.seconds >= max(seconds)


def test_requests_one_by_one_are_noted_apart():
    answers = iter([200, 500, 200])

    async def handler(request: web.Request) -> web.Response:
        return web.Response(status=next(answers))

    measures = Measures()

    async def use(url: str) -> None:
        await drive_alone(Plan(url, 1.0, 1), measures, 3)

    asyncio.run(serving(handler, use))

    assert len(measures.alone) == 3
    assert measures.alone_failed == 1
    assert measures.requests == 0


def test_a_run_has_recovered_once_its_last_requests_were_answered():
    measures = Measures()
    for _ in range(1_000):
        measures.record("product", 0.01, None)
    measures.record("product", 0.01, "AdminShutdown")
    for _ in range(99):
        measures.record("product", 0.01, None)
    assert not measures.recovered

    measures.record("product", 0.01, None)
    assert measures.recovered


def test_of_a_run_without_any_answer_nothing_is_made_up():
    empty = Measures()

    assert (empty.requests, empty.throughput, empty.percentile(0.99)) == (0, 0.0, 0.0)
    assert not empty.recovered


def test_percentiles_are_values_that_were_measured():
    measures = Measures(latencies=[0.4, 0.1, 0.3, 0.2])

    assert [measures.percentile(share) for share in (0.25, 0.5, 0.75, 0.99)] == [0.1, 0.2, 0.3, 0.4]

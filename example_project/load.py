"""Drive HTTP load against the shop: so many clients, each with one request after the other."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from example_project.measures import Measures
from example_project.runs import EVERYDAY_MIX

CLIENT_TIMEOUT = 30.0
RAMP_SHARE = 0.2
"""Of a run's seconds: in so many clients without pauses set out, one after the other."""


@dataclass(frozen=True)
class Call:
    """One request to be made."""

    kind: str
    method: str
    path: str
    json: Mapping[str, Any] | None = None
    expected: int = 200


@dataclass(frozen=True)
class Plan:
    """What is driven against which site."""

    url: str
    seconds: float
    in_flight: int
    mix: Mapping[str, int] = field(default_factory=lambda: EVERYDAY_MIX)
    pause: float = 0.0
    """Seconds for which a client looks at what it got, on average, before it asks again."""
    seed: int = 2
    products: int = 1_000
    customers: int = 5_000

    def calls(self, client: int) -> Callable[[], Call]:
        """Return a function that gives a client's next call; the same ones for every run."""
        chance = random.Random(f"{self.seed}-{client}")
        kinds, weights = list(self.mix), list(self.mix.values())

        def sku() -> str:
            return f"p{chance.randint(1, self.products):05}"

        def next_call() -> Call:
            kind = chance.choices(kinds, weights)[0]
            customer = chance.randint(1, self.customers)
            if kind == "product":
                return Call(kind, "GET", f"products/{sku()}/")
            if kind == "orders":
                return Call(kind, "GET", f"customers/{customer}/orders/")
            if kind == "quote":
                return Call(kind, "GET", f"products/{sku()}/quote/")
            if kind == "order":
                items = {sku(): chance.randint(1, 3) for _ in range(chance.randint(1, 4))}
                body = {"customer": customer, "items": items}
                return Call(kind, "POST", "orders/", body, expected=201)
            return Call(kind, "GET", "orders/" if kind == "latest" else "report/")

        return next_call

    @property
    def ramp(self) -> float:
        """In so many seconds all clients set out: within a pause, so that no rush comes of it."""
        return self.pause or self.seconds * RAMP_SHARE

    def pauses(self, client: int) -> Callable[[], float]:
        """Return a function that gives a client's next pause; the same ones for every run."""
        chance = random.Random(f"pause-{self.seed}-{client}")
        return lambda: chance.expovariate(1 / self.pause) if self.pause else 0.0


async def drive(
    plan: Plan,
    measures: Measures,
    at_half_time: Callable[[], Coroutine[None, None, None]] | None = None,
) -> None:
    """Bring `plan.in_flight` requests under way and keep them so; count them in `measures`.

    With a `pause` there are as many clients, and fewer requests under way.
    No request sets out after `plan.seconds`.
    `at_half_time` is awaited in the middle, while the load goes on. Requests that are under
    way at the end are waited for.
    """
    started = time.monotonic()
    end = started + plan.seconds
    # No limit of the client's own: what waits shall wait in the site. A connection a request,
    # as most proxies have it: so each worker takes what it can, and none is stuck with more.
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    timeout = aiohttp.ClientTimeout(total=CLIENT_TIMEOUT)
    async with aiohttp.ClientSession(plan.url, connector=connector, timeout=timeout) as session:
        clock = asyncio.create_task(_clock(measures, started))
        try:
            async with asyncio.TaskGroup() as group:
                for client in range(plan.in_flight):
                    begin = started + plan.ramp * client / plan.in_flight
                    asking = _client(session, plan, client, measures, begin, end)
                    group.create_task(asking)
                if at_half_time is not None:
                    group.create_task(_later(plan.seconds / 2, at_half_time))
        finally:
            clock.cancel()
        measures.seconds = time.monotonic() - started


async def drive_alone(plan: Plan, measures: Measures, requests: int) -> None:
    """Make a few requests one after the other, as in a quiet hour; note them apart."""
    timeout = aiohttp.ClientTimeout(total=CLIENT_TIMEOUT)
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(plan.url, connector=connector, timeout=timeout) as session:
        for number in range(1, requests + 1):
            started = time.monotonic()
            failure = await ask(session, Call("product", "GET", f"products/p{number:05}/"))
            measures.alone.append(time.monotonic() - started)
            measures.alone_failed += failure is not None


async def _later(seconds: float, action: Callable[[], Coroutine[None, None, None]]) -> None:
    await asyncio.sleep(seconds)
    await action()


async def _clock(measures: Measures, started: float) -> None:
    """Keep the elapsed time of a run that is being watched."""
    while True:
        measures.seconds = time.monotonic() - started
        await asyncio.sleep(0.1)


async def _client(
    session: aiohttp.ClientSession,
    plan: Plan,
    client: int,
    measures: Measures,
    begin: float,
    end: float,
) -> None:
    next_call, next_pause = plan.calls(client), plan.pauses(client)
    await asyncio.sleep(begin - time.monotonic())
    while time.monotonic() < end:
        call = next_call()
        started = time.monotonic()
        measures.enter()
        try:
            failure = await ask(session, call)
        finally:
            measures.leave()
        measures.record(call.kind, time.monotonic() - started, failure)
        if pause := next_pause():
            await asyncio.sleep(pause)


async def ask(session: aiohttp.ClientSession, call: Call) -> str | None:
    """Make one request; return the kind of its failure, None if it was answered well."""
    try:
        async with session.request(call.method, call.path, json=call.json) as response:
            await response.read()
    except TimeoutError:
        return "client timeout"
    except aiohttp.ClientError as error:
        return type(error).__name__
    if response.status == call.expected:
        return None
    return response.headers.get("X-Error") or str(response.status)

"""So many clients at once, from a process of their own: `python -m example_project.clients PLAN`.

`PLAN` is JSON. Each client asks, reads the answer, and asks again on the connection that it has.
Prints what has come of it once a second, as an object of JSON in a line, and last with `"over"`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
import time
from dataclasses import dataclass

import aiohttp

from example_project.load import Call, ask
from example_project.measures import Measures

PAUSE = 1.0
"""Seconds after which a client tries again that was not answered well."""


@dataclass(frozen=True)
class Crowd:
    """Who asks for what, and for how long; durations in seconds."""

    url: str
    path: str
    """Of the page. `{number}` in it is replaced by one of `numbers`, another for each client."""
    clients: int
    ramp: float
    """In so many the clients set out, one after the other."""
    hold: float
    """For so many more each asks again and again. What is under way then is waited for."""
    patience: float
    """After so many a client gives up, and its request has failed."""
    numbers: int = 1_000

    def as_argument(self) -> str:
        """Return it for the command line of the process."""
        return json.dumps(dataclasses.asdict(self))

    def begin(self, client: int) -> float:
        """Return after how many seconds a client sets out."""
        return self.ramp * client / self.clients

    def page(self, client: int) -> str:
        """Return what a client asks for."""
        return self.path.format(number=f"{1 + client % self.numbers:05}")


async def flood(crowd: Crowd, measures: Measures) -> None:
    """Send the clients, and wait until the last of them is done."""
    started = time.monotonic()
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=crowd.patience)
    async with aiohttp.ClientSession(
        crowd.url,
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=crowd.patience),
        cookie_jar=aiohttp.DummyCookieJar(),
    ) as session:
        teller = asyncio.create_task(_tell(measures, started))
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(crowd.clients):
                    group.create_task(_client(session, crowd, number, measures, started))
        finally:
            teller.cancel()
    measures.seconds = time.monotonic() - started


async def _client(
    session: aiohttp.ClientSession, crowd: Crowd, number: int, measures: Measures, started: float
) -> None:
    call = Call("page", "GET", crowd.page(number))
    end = started + crowd.ramp + crowd.hold
    await asyncio.sleep(started + crowd.begin(number) - time.monotonic())
    while True:
        begin = time.monotonic()
        measures.enter()
        try:
            failure = await ask(session, call)
        finally:
            measures.leave()
        measures.record(call.kind, time.monotonic() - begin, failure)
        if failure is not None:
            await asyncio.sleep(PAUSE)
        if time.monotonic() >= end:
            return


async def _tell(measures: Measures, started: float) -> None:
    while True:
        await asyncio.sleep(1.0)
        measures.seconds = time.monotonic() - started
        _print(measures, over=False)


def _print(measures: Measures, *, over: bool) -> None:
    state = {"over": over, "in_flight": measures.in_flight}
    print(json.dumps(measures.as_json() | state), flush=True)


def main(argument: str) -> None:
    """Be the clients that a plan in JSON asks for."""
    try:
        from uvloop import new_event_loop
    except ImportError:  # there is none for this system
        new_event_loop = asyncio.new_event_loop  # type: ignore[assignment]
    measures = Measures()
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(flood(Crowd(**json.loads(argument)), measures))
    _print(measures, over=True)


if __name__ == "__main__":
    main(sys.argv[1])

"""Visitors who come whether others are served or not, and what became of each."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import aiohttp

from django_poolkit.testing import Cluster, Node
from example_project.bootstrap import ROOT
from example_project.processes import listen, run_to_end, url_of
from example_project.runs import ENGINES, SLOW_UPSTREAM_SECONDS, Engine
from example_project.serving import Shape, database_environment, site, upstream

DATABASE = "pictures"
MANAGE = [sys.executable, "-m", "example_project.manage"]
PATIENCE = 15.0
"""Seconds after which a visitor gives up."""


class Visit(NamedTuple):
    """One request; moments are seconds since the first."""

    started: float
    ended: float
    well: bool


class Stream(NamedTuple):
    """So many visitors a second ask for a page, from one second to another."""

    path: str
    rate: float
    begin: float
    end: float

    def moments(self) -> Iterator[float]:
        """Return when they come."""
        count = round((self.end - self.begin) * self.rate)
        yield from (self.begin + number / self.rate for number in range(count))


@dataclass(frozen=True)
class Story:
    """What happens to a site."""

    seconds: float
    streams: Sequence[Stream]
    outage: float
    """When the server is stopped."""
    away: float
    """For so many seconds it is down, and then it starts."""


@contextmanager
def shop(home: Path) -> Iterator[tuple[Node, dict[str, str]]]:
    """Run a server with the shop's data, and a slow supplier; yield it, and what leads there."""
    with Cluster() as cluster, upstream(home, SLOW_UPSTREAM_SECONDS) as supplier:
        primary = cluster.primary
        primary.create_database(DATABASE)
        environment = database_environment(primary, primary, DATABASE)
        environment |= {"SHOP_UPSTREAM_URL": supplier, "SHOP_HOME": str(home)}
        for command in (["migrate", "--verbosity", "0"], ["seed", "--orders", "2000"]):
            run_to_end([*MANAGE, *command], environment=environment, folder=ROOT)
        yield primary, environment


def told(
    story: Story, shape: Shape, primary: Node, environment: Mapping[str, str], home: Path
) -> tuple[dict[str, list[Visit]], float]:
    """Have the same happen on our pool and on Django's.

    Returns the visits by the key of the engine, and the seconds of the longer outage. Blocks for
    twice the story.
    """
    ours, _, djangos = ENGINES
    visits: dict[str, list[Visit]] = {}
    took = []
    for engine in (djangos, ours):
        variables = {**environment, **engine.variables}
        visits[engine.key], seconds = _on(engine, story, shape, variables, primary, home)
        took.append(seconds)
    return visits, max(took)


def _on(
    engine: Engine,
    story: Story,
    shape: Shape,
    environment: dict[str, str],
    primary: Node,
    home: Path,
) -> tuple[list[Visit], float]:
    def outage() -> float:
        begun = time.monotonic()
        primary.stop("fast")
        time.sleep(story.away)
        primary.start()
        return time.monotonic() - begun

    with (
        listen() as listener,
        site(listener, shape, environment, home / f"site-{engine.key}.log"),
    ):
        warm_up = Story(
            3.0, [Stream(path.path, 10.0, 0.0, 3.0) for path in story.streams], 1e9, 0.0
        )
        asyncio.run(_visit(url_of(listener), warm_up, outage))
        return asyncio.run(_visit(url_of(listener), story, outage))


async def _visit(url: str, story: Story, outage: Callable[[], float]) -> tuple[list[Visit], float]:
    visits: list[Visit] = []
    took = 0.0
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    timeout = aiohttp.ClientTimeout(total=PATIENCE)
    async with aiohttp.ClientSession(url, connector=connector, timeout=timeout) as session:
        first = time.monotonic()

        def now() -> float:
            return time.monotonic() - first

        async def visit(path: str, moment: float) -> None:
            await asyncio.sleep(moment - now())
            started = now()
            try:
                async with session.get(path) as answer:
                    await answer.read()
                    well = answer.status == 200
            except (aiohttp.ClientError, TimeoutError):
                well = False
            visits.append(Visit(started, now(), well))

        async def strike() -> None:
            nonlocal took
            if story.outage < story.seconds:
                await asyncio.sleep(story.outage - now())
                took = await asyncio.to_thread(outage)

        everybody = [
            visit(stream.path.format(number=f"{1 + number % 100:05}"), moment)
            for stream in story.streams
            for number, moment in enumerate(stream.moments())
        ]
        await asyncio.gather(strike(), *everybody)
    return visits, took

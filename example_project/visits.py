"""Visitors who order and look at their orders, while the replica falls behind and catches up."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from django_poolkit.testing import Node
from example_project.load import CLIENT_TIMEOUT
from example_project.verdicts import Verdict

ORDERS = 0.1
"""Of a visitor's requests: so many place an order."""
OWN = 0.5
"""And so many show the visitor's own orders, as does each that follows an order. The rest show a
product."""
STATES = "replaying", "paused"
"""What the replica does, in turns: it keeps up, or it gets nothing new."""
WARM_UP = 1.0
TURNS = 4
PAUSE = 5.0
"""Seconds that a turn lasts at most: far below those for which the site remembers a write."""


@dataclass
class Visits:
    """What the visitors of one run met."""

    key: str
    """Its name among the measurements."""
    title: str
    remembered: bool
    """Whether they keep the cookies that they are given."""
    orders: int = 0
    pages: Counter[str] = field(default_factory=Counter)
    """Pages that were read, by what the replica did as they were asked for."""
    from_replica: Counter[str] = field(default_factory=Counter)
    """Those of them that were read from the replica alone."""
    stale: Counter[str] = field(default_factory=Counter)
    """Those of them that lacked an order of which the visitor had been told before."""
    seconds: dict[str, list[float]] = field(default_factory=dict)
    failures: Counter[str] = field(default_factory=Counter)

    def share(self, state: str) -> float:
        """Return how much of the pages was read from the replica, from 0 to 1."""
        return self.from_replica[state] / self.pages[state] if self.pages[state] else 0.0

    def median(self, state: str) -> float:
        """Return in how many seconds half of the pages were there."""
        return statistics.median(self.seconds.get(state) or [0.0])

    def page(self, state: str, seconds: float, source: str, *, stale: bool) -> None:
        """Count a page that was read."""
        self.pages[state] += 1
        self.from_replica[state] += source == "replica"
        self.stale[state] += stale
        self.seconds.setdefault(state, []).append(seconds)

    def as_json(self) -> dict[str, Any]:
        """Return the counts, for a file."""
        counts = {name: dict(getattr(self, name)) for name in ("pages", "from_replica", "stale")}
        medians = {state: self.median(state) for state in STATES}
        return {**counts, "orders": self.orders, "p50": medians, "failures": dict(self.failures)}


def announcement(visitors: int, seconds: float) -> str:
    """Return what two runs of so many seconds are about to show."""
    return (
        f"{visitors} visitors who order and look at their orders; reads go to the replica, which"
        f" gets nothing new every other {_turn(seconds):g} s"
    )


def measure(url: str, replica: Node, visitors: int, seconds: float) -> list[Visits]:
    """Send visitors who keep their cookies, then as many who do not. Blocks until they are done."""
    # The first requests import, compile templates and connect; they do not count.
    warm_up = Visits("", "", True)
    asyncio.run(_visit(url, replica, visitors, WARM_UP, warm_up, seed=2))
    found = [Visits("kept", "cookies kept", True), Visits("thrown", "cookies thrown away", False)]
    for number, visits in enumerate(found):
        print(f"  {visits.title} ...", flush=True)
        asyncio.run(_visit(url, replica, visitors, seconds, visits, seed=number))
    return found


async def _visit(
    url: str, replica: Node, visitors: int, seconds: float, visits: Visits, seed: int
) -> None:
    end = time.monotonic() + seconds
    async with _replaying(replica, seconds) as state, asyncio.TaskGroup() as group:
        for number in range(1, visitors + 1):
            chance = random.Random(f"{seed}-{number}")
            # So that nobody finds what somebody else has ordered.
            customer = seed * visitors + number
            group.create_task(_Visitor(customer, chance, visits, state).stay(url, end))


def _turn(seconds: float) -> float:
    """Return for how many seconds the replica does the same."""
    return min(seconds / TURNS, PAUSE)


class _Visitor:
    def __init__(
        self, customer: int, chance: random.Random, visits: Visits, state: Callable[[], str]
    ) -> None:
        self._customer = customer
        self._chance = chance
        self._visits = visits
        self._state = state
        self._last: int | None = None
        self._looked = True

    async def stay(self, url: str, end: float) -> None:
        """Ask for one page after the other."""
        jar = (
            aiohttp.CookieJar(unsafe=True) if self._visits.remembered else aiohttp.DummyCookieJar()
        )
        # A connection a request: either worker may answer, and has to know the visitor's writes.
        connector = aiohttp.TCPConnector(force_close=True)
        timeout = aiohttp.ClientTimeout(total=CLIENT_TIMEOUT)
        async with aiohttp.ClientSession(
            url, cookie_jar=jar, connector=connector, timeout=timeout
        ) as session:
            while time.monotonic() < end:
                try:
                    await self._ask(session)
                except (TimeoutError, aiohttp.ClientError) as error:
                    self._visits.failures[type(error).__name__] += 1

    async def _ask(self, session: aiohttp.ClientSession) -> None:
        drawn = self._chance.random()
        sku = f"p{self._chance.randint(1, 1_000):05}"
        if not self._looked or ORDERS <= drawn < ORDERS + OWN:
            self._looked = True
            await self._look(session, f"customers/{self._customer}/orders/", own=True)
        elif drawn < ORDERS:
            self._looked = False
            await self._order(session, sku)
        else:
            await self._look(session, f"products/{sku}/", own=False)

    async def _order(self, session: aiohttp.ClientSession, sku: str) -> None:
        body = {"customer": self._customer, "items": {sku: 1}}
        async with session.post("orders/", json=body) as response:
            if response.status == 201:
                self._last = (await response.json())["order"]
                self._visits.orders += 1
            else:
                self._visits.failures[str(response.status)] += 1

    async def _look(self, session: aiohttp.ClientSession, path: str, *, own: bool) -> None:
        state, last = self._state(), self._last
        started = time.monotonic()
        async with session.get(path) as response:
            text = await response.text()
        if response.status != 200:
            self._visits.failures[str(response.status)] += 1
            return
        stale = own and last is not None and f"<td>{last}</td>" not in text
        source = response.headers.get("X-Read-From", "")
        self._visits.page(state, time.monotonic() - started, source, stale=stale)


@contextlib.asynccontextmanager
async def _replaying(replica: Node, seconds: float) -> AsyncIterator[Callable[[], str]]:
    """Have the replica pause and go on in turns; yield a function that tells what it does."""
    state = STATES[0]
    ended = asyncio.Event()

    async def turns() -> None:
        nonlocal state
        steps = {"paused": replica.pause_replay, "replaying": replica.resume_replay}
        for following, step in itertools.cycle(steps.items()):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), _turn(seconds))
                return
            await asyncio.to_thread(step)
            state = following

    turning = asyncio.create_task(turns())
    try:
        yield lambda: state
    finally:
        # Not cancelled: its thread would go on, and might pause the replica after all.
        ended.set()
        await turning
        await asyncio.to_thread(replica.resume_replay)


def verdicts(found: list[Visits]) -> list[Verdict]:
    """Judge what visitors met who keep their cookies, and whether the others show the need."""
    kept, thrown = found
    pages, stale = kept.pages.total(), kept.stale.total()
    return [
        Verdict(
            f"visitors, {kept.title}: {stale:,} of {pages:,} pages lacked an order that the visitor"
            f" had just placed, so none, and {kept.failures.total():,} requests failed",
            pages > 0 and kept.orders > 0 and not stale and not kept.failures,
        ),
        Verdict(
            f"visitors, {kept.title}: {kept.share('replaying'):.0%} of the pages came from the"
            f" replica, and {kept.share('paused'):.0%} while it got nothing new",
            kept.share("replaying") > 0.5 and kept.share("paused") > 0,
        ),
        Verdict(
            f"visitors, {thrown.title}: {thrown.stale.total():,} of {thrown.pages.total():,} pages"
            " lacked one, so such pages would have been seen",
            thrown.stale["paused"] > 0,
        ),
    ]

"""The supplier's API, asked from an async and a sync view by the client session that they share."""

from __future__ import annotations

import asyncio
import statistics
import time
from dataclasses import dataclass

import aiohttp

from example_project.serving import take_connections
from example_project.verdicts import Verdict

REQUESTS = 100
AT_ONCE = 20
VIEWS = {"async view": "products/p00001/quote/async/", "sync view": "products/p00001/quote/"}
"""By what they are called: one awaits the answer, the other goes on when it is there."""


@dataclass(frozen=True)
class Calls:
    """What came of the requests to one view, each of which asks the supplier."""

    view: str
    seconds: float
    """In which half of them were answered."""
    failed: int
    connections: int
    """By which the supplier was asked."""

    def line(self) -> str:
        """Return it for a person."""
        return (
            f"  {self.view}: {REQUESTS} requests, {AT_ONCE} at once, half of them within"
            f" {self.seconds * 1000:,.0f} ms, {self.failed or 'none'} failed;"
            f" {self.connections} connections to the supplier"
        )

    def verdict(self) -> Verdict:
        """Return whether the client session was shared."""
        return Verdict(
            f"{self.view}: {REQUESTS} requests asked the supplier by {self.connections}"
            f" connections, no more than the {AT_ONCE} that were under way at once",
            not self.failed and 0 < self.connections <= AT_ONCE,
        )


def measure(site_url: str, supplier_url: str) -> list[Calls]:
    """Send requests to each view in turn. Blocks until they are answered."""
    return [asyncio.run(_measure(view, site_url, supplier_url)) for view in VIEWS]


async def _measure(view: str, site_url: str, supplier_url: str) -> Calls:
    await asyncio.to_thread(take_connections, supplier_url)  # those of another view are gone
    seconds: list[float] = []
    failed = 0

    async def client(session: aiohttp.ClientSession) -> None:
        nonlocal failed
        for _ in range(REQUESTS // AT_ONCE):
            started = time.monotonic()
            async with session.get(VIEWS[view]) as response:
                await response.read()
                failed += response.status != 200
            seconds.append(time.monotonic() - started)

    async with aiohttp.ClientSession(site_url) as session:
        await asyncio.gather(*(client(session) for _ in range(AT_ONCE)))
    return Calls(
        view,
        statistics.median(seconds),
        failed,
        await asyncio.to_thread(take_connections, supplier_url),
    )

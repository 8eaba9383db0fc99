"""What a flood is: so many requests at once on one process, and what is measured of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from example_project.sending import Report

CONNECTIONS = 20
UPSTREAM_SECONDS = 0.1
SUPPLIER_CONNECTIONS = 1_000
"""Of the client session, as the settings have it."""
PATIENCE = 60.0
"""Seconds for which a request may wait for a connection, and for the supplier."""
PAGE = "products/p{number}/quote/async/"
COMING = 1_000
"""Clients that set out in a second: 10,000 within 10 s."""


@dataclass(frozen=True)
class Wave:
    """One column: how many come, and what runs their queries."""

    key: str
    title: str
    clients: int
    variables: Mapping[str, str] = field(hash=False)
    """What it sets for the site, beside what both share."""
    page: str = PAGE
    application: str = "example_project.asgi:application"

    @property
    def ramp(self) -> float:
        """Return in how many seconds they come, one after the other."""
        return self.clients / COMING


@dataclass(frozen=True)
class Outcome:
    """What came of a wave: as its clients, the server, the supplier and the system say."""

    wave: Wave
    report: Report
    connections: int
    at_supplier: int
    threads_before: int
    threads: int
    files: int
    memory: int
    cpu: float

    @property
    def failed(self) -> int:
        """Requests that were not answered well."""
        return int(sum(self.report["failures"].values()))

    @property
    def cpu_each(self) -> float:
        """Return the seconds that the process has computed for a request."""
        return self.cpu / max(int(self.report["requests"]), 1)

    def as_json(self) -> dict[str, Any]:
        """Return it for a file."""
        own = {name: value for name, value in vars(self).items() if name not in ("wave", "report")}
        return {**self.report, **own}


def waves(clients: int, beside: int) -> tuple[Wave, ...]:
    """Return the flood, and the smaller one on Django's own async ORM if `beside` is above 0."""
    shared = {
        "SHOP_ROUTING": "off",
        "SHOP_POOL_SIZE": str(CONNECTIONS),
        "SHOP_POOL_TIMEOUT": f"{PATIENCE:g}",
        "SHOP_SUPPLIER_TIMEOUT": f"{PATIENCE:g}",
    }
    ours = {"SHOP_BACKEND": "poolkit", "SHOP_POOL_MODE": "transaction", "SHOP_ASYNC_ORM": "on"}
    flood = Wave("ours", "on the event loop", clients, {**shared, **ours})
    django = Wave("django", "Django's own async ORM", beside, {**shared, "SHOP_BACKEND": "django"})
    return (flood, django) if beside else (flood,)

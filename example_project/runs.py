"""What is run: three kinds of load, each on the same site with three kinds of pool."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

UPSTREAM_SECONDS = 0.15
SLOW_UPSTREAM_SECONDS = 2.0

EVERYDAY_MIX = {"product": 40, "orders": 15, "latest": 8, "order": 15, "quote": 20, "report": 2}
"""Of a hundred requests: two kinds of page, a list, a write, a slow one, a heavy one."""

CROWD_MIX = {"quote": 80, "product": 10, "order": 10}
"""Mostly requests that wait for the supplier between their queries."""


@dataclass(frozen=True)
class Engine:
    """One column: what keeps the connections of the site."""

    key: str
    title: str
    variables: Mapping[str, str] = field(hash=False)
    """What it sets for the site, beside what all of them share."""
    ours: bool = True


_NO_ROUTING = {"SHOP_ROUTING": "off"}  # pools are compared, each on the same server

ENGINES = (
    Engine(
        "transaction",
        "transaction mode",
        {"SHOP_BACKEND": "poolkit", "SHOP_POOL_MODE": "transaction", **_NO_ROUTING},
    ),
    Engine(
        "session",
        "session mode",
        {"SHOP_BACKEND": "poolkit", "SHOP_POOL_MODE": "session", **_NO_ROUTING},
    ),
    Engine("django", "Django's own pool", {"SHOP_BACKEND": "django", **_NO_ROUTING}, ours=False),
)
"""In the order in which they are run. All have the same pool size and the same timeout."""

PGBOUNCER = Engine(
    "pgbouncer",
    "through PgBouncer",
    {
        "SHOP_BACKEND": "poolkit",
        "SHOP_POOL_MODE": "transaction",
        "SHOP_POOLER": "pgbouncer-transaction",
        **_NO_ROUTING,
    },
)
"""Transaction mode once more, with PgBouncer in between, where that is asked for."""


@dataclass(frozen=True)
class Load:
    """One table: what is asked of the site, and what happens meanwhile."""

    key: str
    title: str
    in_flight: int
    mix: Mapping[str, int] = field(hash=False)
    supplier_seconds: float = UPSTREAM_SECONDS
    kill: bool = False
    """Whether every backend is terminated in mid-run, and once more afterwards."""


@dataclass(frozen=True)
class Run:
    """One load on one engine."""

    load: Load
    engine: Engine

    @property
    def key(self) -> str:
        """Its name among the measurements."""
        return f"{self.load.key}_{self.engine.key}"

    @property
    def title(self) -> str:
        """Its name for a person."""
        return f"{self.load.title}, {self.engine.title}"


def loads(in_flight: int, crowd: int) -> tuple[Load, Load, Load]:
    """Return the everyday load, the crowd before a slow supplier, and the outage."""
    return (
        Load("everyday", "everyday load", in_flight, EVERYDAY_MIX),
        Load(
            "crowd",
            f"a supplier that takes {SLOW_UPSTREAM_SECONDS:g} s",
            crowd,
            CROWD_MIX,
            SLOW_UPSTREAM_SECONDS,
        ),
        Load("outage", "every backend killed", in_flight, EVERYDAY_MIX, kill=True),
    )


def runs_of(load: Load) -> tuple[Run, ...]:
    """Return the runs of one load, in their order."""
    return tuple(Run(load, engine) for engine in ENGINES)


def runs_through_pgbouncer(load: Load) -> tuple[Run, ...]:
    """Return the runs of one load behind PgBouncer; none where the load is an outage."""
    return () if load.kill else (Run(load, PGBOUNCER),)

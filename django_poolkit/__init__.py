"""Connection pools for Django under high concurrency.

`connection_pools["default"]` is the pool behind a database alias, usable outside requests and
the ORM; `asyncpg_pools["default"]` is one of asyncpg's connections to the same database;
`client_sessions["default"]` is an aiohttp client session that a process shares. The errors and
`PoolStats` load neither Django nor a driver.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django_poolkit.pools.deadline import Deadline, deadline
from django_poolkit.pools.errors import (
    DeadlineExceeded,
    LeaseReleased,
    PoolClosed,
    PoolDeadlock,
    PoolError,
    PoolPaused,
    PoolTimeout,
    PoolWarning,
    SessionStateLeft,
    TooManyWaiters,
    WrongLoop,
)
from django_poolkit.pools.share import share
from django_poolkit.pools.stats import PoolStats

if TYPE_CHECKING:
    from django_poolkit.backends.asyncpg.pools import asyncpg_pools
    from django_poolkit.http.sessions import client_sessions
    from django_poolkit.registry import connection_pools

__version__ = "0.1.0"

__all__ = [
    "Deadline",
    "DeadlineExceeded",
    "LeaseReleased",
    "PoolClosed",
    "PoolDeadlock",
    "PoolError",
    "PoolPaused",
    "PoolStats",
    "PoolTimeout",
    "PoolWarning",
    "SessionStateLeft",
    "TooManyWaiters",
    "WrongLoop",
    "__version__",
    "asyncpg_pools",
    "client_sessions",
    "connection_pools",
    "deadline",
    "share",
]


def __getattr__(name: str) -> Any:
    # The errors must be importable where Django is not set up, or not there at all.
    if name == "connection_pools":
        from django_poolkit import registry

        return registry.connection_pools
    if name == "asyncpg_pools":
        from django_poolkit.backends.asyncpg import pools

        return pools.asyncpg_pools
    if name == "client_sessions":
        from django_poolkit.http import sessions

        return sessions.client_sessions
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""The errors of a PostgreSQL pool: ours, and psycopg_pool's at the same time."""

from __future__ import annotations

from typing import Any

import psycopg
import psycopg_pool

from django_poolkit.pools import errors


class PoolClosed(errors.PoolClosed, psycopg_pool.PoolClosed):
    """The pool is closed, or was never opened."""


class PoolTimeout(errors.PoolTimeout, psycopg_pool.PoolTimeout):
    """No connection became free within the timeout."""


class PoolDeadlock(errors.PoolDeadlock, PoolTimeout):
    """All connections are held by threads that wait for a further one of the same pool."""


class DeadlineExceeded(errors.DeadlineExceeded, psycopg.errors.QueryCanceled):
    """A statement was still running as its deadline passed, or was to begin after that."""


class PoolPaused(errors.PoolPaused, psycopg_pool.PoolTimeout):
    """The pool stayed paused for as long as the caller was ready to wait."""


class TooManyWaiters(errors.TooManyWaiters, psycopg_pool.TooManyRequests):
    """The queue of the pool already holds `max_waiting` waiters."""


class ServerRefuses(errors.PoolError, psycopg.OperationalError):
    """The server gives no connection, and the caller said that it can go elsewhere."""

    reason: str = ""
    """Why, without the name of the pool."""

    def __init__(self, message: str = "", *, reason: str = "", **facts: Any) -> None:
        super().__init__(message, **facts)
        self.reason = reason


class StalePlan(psycopg.OperationalError):
    """A transaction met a prepared statement of which the tables were altered by somebody else.

    Run it again: it finds no other.
    """


class LeaseReleased(errors.LeaseReleased, psycopg.InterfaceError):
    """A cursor or connection was used after its lease had been given back."""

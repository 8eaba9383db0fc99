"""FastAPI's dependencies: a connection, or a client session, as a parameter of an endpoint.

What each function returns stands behind the type: `Annotated[AsyncConnection, leased("default")]`.
All else is there for every ASGI application: `app.add_middleware(Poolkit)` of `django_poolkit.asgi`
opens and closes what the process needs, ends the leases of requests, and answers 503 and health.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from functools import cache
from typing import Any

from fastapi import Depends
from fastapi.params import Depends as Dependency

from django_poolkit import asyncpg_pools, client_sessions, connection_pools


def leased(alias: str = "default", timeout: float | None = None) -> Dependency:
    """Return what gives an endpoint a psycopg.AsyncConnection of `connection_pools[alias]`.

    It is leased until the endpoint returns, and its transaction committed then, before the answer
    is sent; where the endpoint raises, it is rolled back. Asked for twice in a request, also by a
    dependency, it is one lease. The request fails as `alease(timeout)` does: 503 where no
    connection could be had.
    """
    # Not FastAPI's default, by which an answer is sent before the commit that may yet fail.
    return Depends(_psycopg(alias, timeout), scope="function")


def asyncpg_leased(alias: str = "default", timeout: float | None = None) -> Dependency:
    """Return what gives an endpoint a connection of `asyncpg_pools[alias]`.

    It is leased until the endpoint returns. What is to be one transaction is put into
    `async with connection.transaction():`, as ever with asyncpg. Else as `leased()`.
    """
    return Depends(_asyncpg(alias, timeout), scope="function")


def client_session(name: str = "default") -> Dependency:
    """Return what gives an endpoint `client_sessions[name]`, which all requests share."""
    return Depends(_client_session(name))


# Once for the same arguments: FastAPI tells by the function whether two dependencies are one.


@cache
def _psycopg(alias: str, timeout: float | None) -> Callable[[], AsyncIterator[Any]]:
    async def connection() -> AsyncIterator[Any]:
        async with connection_pools[alias].alease(timeout) as found:
            yield found

    return connection


@cache
def _asyncpg(alias: str, timeout: float | None) -> Callable[[], AsyncIterator[Any]]:
    async def connection() -> AsyncIterator[Any]:
        async with asyncpg_pools[alias].lease(timeout) as found:
            yield found

    return connection


@cache
def _client_session(name: str) -> Callable[[], Awaitable[Any]]:
    # A coroutine function: FastAPI has a thread run any other.
    async def session() -> Any:
        return client_sessions[name]

    return session

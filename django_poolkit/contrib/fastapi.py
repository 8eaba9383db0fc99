"""FastAPI's dependencies: a connection, or a client session, as a parameter of an endpoint.

What each function returns stands behind the type: `Annotated[AsyncConnection, leased("default")]`.
All else is there for every ASGI application: `app.add_middleware(Poolkit)` of `django_poolkit.asgi`
opens and closes what the process needs, ends the leases of requests, and answers 503 and health.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from functools import cache
from typing import Any

from fastapi.params import Depends as Dependency

from django_poolkit import asyncpg_pools, client_sessions, connection_pools


def leased(alias: str = "default", timeout: float | None = None) -> Dependency:
    """Return what gives an endpoint a psycopg.AsyncConnection of `connection_pools[alias]`.

    It is leased until the endpoint returns, and not for as long as its answer is being sent. As
    with Django's own connections each statement commits by itself; several are one transaction in
    `async with connection.transaction():`. Asked for twice in a request, also by dependencies, it
    is one lease. Where none is to be had the endpoint is not called, and `Poolkit` answers 503.
    """
    return _until_return(_psycopg(alias, timeout))


def asyncpg_leased(alias: str = "default", timeout: float | None = None) -> Dependency:
    """Return what gives an endpoint a connection of `asyncpg_pools[alias]`. Else as `leased()`."""
    return _until_return(_asyncpg(alias, timeout))


def client_session(name: str = "default") -> Dependency:
    """Return what gives an endpoint `client_sessions[name]`, which all requests share."""
    return Dependency(_client_session(name))


def _until_return(dependency: Callable[[], AsyncIterator[Any]]) -> Dependency:
    # FastAPI's own default is to keep it until the answer has been sent: a slow client, or a
    # stream, would hold a connection for as long as it likes.
    return Dependency(dependency, scope="function")


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

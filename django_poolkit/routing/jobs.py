"""Floors of jobs: what enqueues one carries them, and what runs it opens its scope with them."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import TypeVar

from django_poolkit.conf.routing import routing_config
from django_poolkit.routing import choice, scopes
from django_poolkit.routing.floors import Floor
from django_poolkit.routing.outgoing import aoutgoing, outgoing
from django_poolkit.routing.scopes import Scope, ScopeBlock
from django_poolkit.routing.settling import asettle, settle
from django_poolkit.routing.token import merge, seal, unseal
from django_poolkit.routing.topology import clusters
from django_poolkit.routing.watching import on_one_database

T = TypeVar("T")


class JobBlock(ScopeBlock):
    """The block of `scope()`: a scope that begins with the floors of a token, if it is given one.

    `async with` waits for a replica without blocking the loop.
    """

    __slots__ = ("_floors",)

    def __init__(self, token: str | None) -> None:
        self._floors = {} if token is None or on_one_database() else unseal(token)

    def __enter__(self) -> Scope:
        here = super().__enter__()
        if self._raised(here):
            try:
                settle(here)
            except BaseException:
                super().__exit__(None, None, None)
                raise
        return here

    async def __aenter__(self) -> Scope:
        here = super().__enter__()
        if self._raised(here):
            try:
                await asettle(here)
            except BaseException:
                super().__exit__(None, None, None)
                raise
        return here

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, trace)

    async def _awaited(self, call: Callable[[], Awaitable[T]]) -> T:
        async with self:
            return await call()

    def _raised(self, here: Scope) -> bool:
        for name, floor in self._floors.items():
            here.raise_floor(name, floor)
        return bool(self._floors) and not here.unsafe and not here.command


def scope(token: str | None = None) -> JobBlock:
    """Open a scope for the length of a `with` or `async with` block, or of a decorated function.

    For work that is no request: a job, a consumer's message, a thread. In it, one replica serves
    all reads of a cluster; and once a statement that may write has begun on the primary, that
    serves them. Within a request or another scope it joins that one; within a management command
    it opens one of its own. Coroutine functions can be decorated, too.

    `token` is what `carry()` has returned where the work was asked for: what had been written there
    is seen here. With it, `with` blocks the thread for `ROUTING["WAIT"]` seconds at most, and
    `async with`, or a decorated coroutine function, the task; a token that is none, or is too old,
    counts as None. Without it this never blocks.
    """
    return JobBlock(token)


def carry() -> str | None:
    """Return a token of what the present work has written, for a message to a job that follows.

    None where there is nothing to be seen: then the job reads any replica. It is a short text of
    ASCII letters, which shows nothing of the database, and is of no use after
    `ROUTING["MAX_AGE"]` seconds. Blocks the thread for 50 ms at most.
    """
    if on_one_database():
        return None
    here = scopes.current()
    return _sealed(here, {} if here is None else outgoing(here))


async def acarry() -> str | None:
    """Do the same as `carry()`, without blocking the loop."""
    if on_one_database():
        return None
    here = scopes.current()
    return _sealed(here, {} if here is None else await aoutgoing(here))


def _sealed(here: Scope | None, known: Mapping[str, Floor]) -> str | None:
    floors = dict(known)
    now = time.time()
    if here is None:
        merge(floors, {name: Floor(None, now + left) for name, left in scopes.pinned().items()})
    else:
        # Where this has not been committed, no position there is yet is high enough.
        pin = Floor(None, now + routing_config().pin)
        merge(floors, {name: pin for name in tuple(here.wrote) if _is_open(name)})
    return seal(floors) if floors else None


def _is_open(name: str) -> bool:
    with suppress(KeyError):
        cluster = clusters()[name]
        return bool(cluster.replicas) and choice.in_transaction(cluster.primary)
    return False

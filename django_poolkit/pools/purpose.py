"""What a lease is acquired for, as far as its pool has to know."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from django_poolkit.pools.errors import PoolError


class Context(Protocol):
    """What a lease was acquired for, as a request."""

    def where(self) -> str | None:
        """Return the request's method and view. Called by those who look, on any thread."""
        ...

    def lent(self) -> None:
        """Take note that a connection is had here, and that nobody looks at what it commits."""
        ...

    def refused(self, error: PoolError) -> None:
        """Take note of an acquire that failed, whose error the caller is about to get."""
        ...


ToContext = Callable[[], Context | None]
"""Leads to what a lease was acquired for, as long as that is there."""


def tell_lent(context: ToContext | None) -> ToContext | None:
    """Have what somebody has acquired for know it; return what leads there."""
    if context is not None and (found := context()) is not None:
        found.lent()
    return context


def tell_refused(context: ToContext | None, error: PoolError) -> None:
    """Have what somebody acquires for know that it failed."""
    if context is not None and (found := context()) is not None:
        found.refused(error)

"""What a lease that SQLAlchemy has tells those who look at the pool."""

from __future__ import annotations

import weakref
from typing import Final

from django_poolkit.backends import request
from django_poolkit.pools.errors import PoolError
from django_poolkit.pools.lease import Lease

NAME: Final = "sqlalchemy"


class Purpose:
    """What a lease was acquired for: SQLAlchemy's, in the course of a request if there is one."""

    __slots__ = ("_scope",)

    def __init__(self) -> None:
        scope = request.current()
        # Weakly: a connection that an engine holds on to is to keep no request alive.
        self._scope = None if scope is None else weakref.ref(scope)
        if scope is not None:
            scope.lent()

    def __call__(self) -> Purpose:
        """Return itself: a lease has what leads to its purpose."""
        return self

    def lent(self) -> None:
        """Nothing: it is made when there is a lease."""

    def refused(self, error: PoolError) -> None:
        """Nothing: it is made when there is a lease."""

    def where(self) -> str:
        """Return the neighbour's name, and behind it the request's method and view."""
        scope = None if self._scope is None else self._scope()
        return NAME if scope is None else f"{NAME}, {scope.where()}"


def mark(lease: Lease, name: str) -> None:
    """Enter into a lease whose it is. `name` is that of the pool: an alias, and maybe a host."""
    lease.alias = name.partition("/")[0]
    lease.context = Purpose()

"""What a lease was acquired for: the work that somebody named, and the request it is done in."""

from __future__ import annotations

import weakref

from django_poolkit.backends import request
from django_poolkit.backends.request import RequestScope
from django_poolkit.pools.errors import PoolError
from django_poolkit.pools.purpose import ToContext
from django_poolkit.pools.share import current as named_by_hand


class Purpose:
    """Named work, in the course of a request if there is one."""

    __slots__ = ("_names", "_scope")

    def __init__(self, names: tuple[str, ...], scope: RequestScope | None) -> None:
        self._names = names
        # Weakly: a lease that is held on to is to keep no request alive.
        self._scope = None if scope is None else weakref.ref(scope)

    def __call__(self) -> Purpose:
        """Return itself: a lease has what leads to its purpose."""
        return self

    def lent(self) -> None:
        """Have the request know of a connection that was had past the ORM."""
        if (scope := self._found()) is not None:
            scope.lent()

    def refused(self, error: PoolError) -> None:
        """Have the request know of an acquire that failed."""
        if (scope := self._found()) is not None:
            scope.refused(error)

    def where(self) -> str:
        """Return the names, and behind them the request's method and view."""
        scope = self._found()
        if scope is None:
            return ", ".join(self._names)
        where = scope.where()
        _, _, known = where.rpartition(" ")  # a view may be named once more, as a share
        return ", ".join((*(name for name in self._names if name != known), where))

    def _found(self) -> RequestScope | None:
        return None if self._scope is None else self._scope()


def of_caller(*names: str) -> ToContext | None:
    """Return what leads to what the caller does, for a lease of its; None where nobody says.

    `names` are those of whoever acquires for it.
    """
    scope, name = request.current(), named_by_hand()
    if name is not None:
        names = (*names, name)
    if names:
        return Purpose(names, scope)
    return None if scope is None else weakref.ref(scope)

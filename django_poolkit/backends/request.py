"""The request in whose course leases are taken, as far as the backend has to know it.

The outermost wrapper or middleware opens a scope; the backend enters what happened in it.
A context variable carries it into the threads and tasks that Django runs a request in.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING
from weakref import WeakSet

from django_poolkit.pools.errors import PoolError

if TYPE_CHECKING:
    from django_poolkit.backends.postgresql.leasing import PooledDatabaseWrapperMixin


class RequestScope:
    """What one request did with its databases.

    Written by the threads that serve the request, one after the other or, under `gather()`,
    side by side: each entry is one atomic assignment or addition.
    """

    __slots__ = ("committed", "exhausted", "wrappers")

    def __init__(self) -> None:
        self.exhausted: PoolError | None = None
        """The first PoolTimeout, PoolPaused or TooManyWaiters that was raised in it."""
        self.committed = False
        """Whether a lease that has ended may have committed something."""
        self.wrappers: WeakSet[PooledDatabaseWrapperMixin] = WeakSet()
        """The database wrappers that took a lease in it."""

    def may_have_committed(self) -> bool:
        """Return whether this request may have committed something, so must not be repeated."""
        return self.committed or any(wrapper.may_have_committed() for wrapper in self.wrappers)


_current: ContextVar[RequestScope | None] = ContextVar("django_poolkit_request", default=None)


def current() -> RequestScope | None:
    """Return the scope of the request being served, None outside of one."""
    return _current.get()


@contextmanager
def scope() -> Iterator[RequestScope]:
    """Open a scope for the length of a `with` block. An outer one, if any, is joined."""
    if (outer := _current.get()) is not None:
        yield outer
        return
    inner = RequestScope()
    token = _current.set(inner)
    try:
        yield inner
    finally:
        _current.reset(token)

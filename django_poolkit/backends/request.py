"""The request in whose course leases are taken, as far as the backend has to know it.

The outermost wrapper or middleware opens a scope; the backend enters what happened in it.
A context variable carries it into the threads and tasks that Django runs a request in.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Collection, Mapping
from contextvars import ContextVar, Token
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from weakref import WeakValueDictionary

from django.urls import get_urlconf, resolve

from django_poolkit.backends.routed import path_of, route_of
from django_poolkit.pools.errors import PoolError, PoolPaused, PoolTimeout, TooManyWaiters
from django_poolkit.pools.lease import Lease

if TYPE_CHECKING:
    from django_poolkit.backends.postgresql.leasing import LeasingMixin

KEY: Final = "django_poolkit.request"
"""Where a scope stands in a WSGI environ, an ASGI scope or `request.META`.

What is nested joins by this key and not by the context variable: a server may start its next
request, or a view a background task, in a copy of the context of one that is over.
"""


EXHAUSTED: Final = (PoolTimeout, PoolPaused, TooManyWaiters)
"""What a pool raises that has no connection to give."""


class Held(NamedTuple):
    """Who holds a lease in the course of a request."""

    wrapper: LeasingMixin
    thread: threading.Thread | None
    """The only thread that may touch the connection while it runs. None: it has let go."""
    late: bool
    """Whether it was taken when the request was over, by work that outlives it."""
    job: FrameType | None = None
    """The job in which that thread was met when the request was over."""


class RequestScope:
    """What one request did with its databases.

    Written by the threads that serve the request, one after the other or, under `gather()`,
    side by side: each entry is one atomic assignment, addition or removal.
    """

    __slots__ = (
        "__weakref__", "_wrappers", "answered", "asgi", "committed", "direct", "exhausted", "hosts",
        "leases", "method", "over", "owned", "path", "route", "routing", "server", "streams",
        "viewed",
    )  # fmt: skip

    def __init__(self, *, owned: bool = False, method: str = "", path: str = "") -> None:
        self.method = method
        self.server: str | None = None
        """What serves it, where that is no view of the URL configuration."""
        self.path = path
        """What the URL configuration is asked for. May hold secrets: `where()` does not."""
        self.asgi: Mapping[str, Any] | None = None
        """Under ASGI, while the request is served: its scope, where frameworks enter the route."""
        self.route: str | None = None
        """What `route_of()` has said of that in the end."""
        self.owned = owned
        """Whether whoever opened it ends its leases, too, by `request_end.finish()`."""
        self.over = False
        """Whether the request has ended. Threads that it started may go on."""
        self.exhausted: PoolError | None = None
        """The first PoolTimeout, PoolPaused or TooManyWaiters that was raised in it."""
        self.answered = False
        """Whether it has been answered with a 503 of ours."""
        self.committed = False
        """Whether a lease that has ended may have committed something."""
        self.direct = False
        """Whether it has had a connection past the ORM: nobody knows what that has committed."""
        self.hosts: dict[str, str] = {}
        """The host chosen for each alias that has several, where the backend chose it."""
        # All that were used, by their ids. Made with the first: that costs as much as all else
        # here, and many a request asks no database. In a dict, which needs no lock to be filled.
        self._wrappers: dict[None, WeakValueDictionary[int, LeasingMixin]] = {}
        self.routing: dict[str, Any] = {}
        """What the router keeps account of. A dict, since threads can fill it without a lock."""
        self.viewed: tuple[str | None, str | None] | None = None
        """The URL configuration that was asked for the view, and its name; None: none yet."""
        self.leases: dict[Lease, Held] = {}
        """The leases taken in it that have not ended. Who removes one has to release it."""

        self.streams: WeakValueDictionary[int, AsyncGenerator[Any, None]] | None = None
        """By their ids, the generators that end with it, if they have not before."""

    def add(self, wrapper: LeasingMixin, lease: Lease) -> None:
        """Enter a lease that the calling thread has just taken."""
        if self.owned:
            thread = threading.current_thread()
            self.leases[lease] = Held(wrapper, thread, late=self.over)

    @property
    def wrappers(self) -> Collection[LeasingMixin]:
        """The database wrappers that were used in it."""
        used = self._wrappers.get(None)
        # The references are copied at one go: a thread may enter another wrapper meanwhile.
        references = () if used is None else used.valuerefs()
        return [wrapper for each in references if (wrapper := each()) is not None]

    def note_use(self, wrapper: LeasingMixin) -> None:
        """Enter a database wrapper that is used in it."""
        if (used := self._wrappers.get(None)) is None:
            used = self._wrappers.setdefault(None, WeakValueDictionary())
        used[id(wrapper)] = wrapper

    def forget_use(self, wrapper: LeasingMixin) -> None:
        """Strike out a database wrapper: what it does from now on is not done in it."""
        if (used := self._wrappers.get(None)) is not None:
            used.pop(id(wrapper), None)

    def claim(self, lease: Lease) -> bool:
        """Strike out a lease; return whether it is the caller, and nobody else, who ends it."""
        return not self.owned or self.leases.pop(lease, None) is not None

    def note_end(self, lease: Lease) -> None:
        """Take over what a lease that ends knows about writes."""
        if lease.committed or lease.wrote:
            self.committed = True

    def lent(self) -> None:
        """Take note of a connection that was had past the ORM."""
        self.direct = True

    def refused(self, error: PoolError) -> None:
        """Take note of an acquire that failed in it, where that was since a pool is exhausted."""
        if isinstance(error, EXHAUSTED) and self.exhausted is None:
            self.exhausted = error

    def where(self) -> str:
        """Return the request's method and the name of its view, as `GET shop:order`.

        In an application of Starlette or FastAPI it is the route, as `GET /orders/{number}`. Else
        asks the URL configuration, on the thread of whoever looks and not in the request.
        """
        if self.server is not None:
            return f"{self.method} {self.server}".strip()
        path, route = self._routed()
        if route is not None:
            return f"{self.method} {route or '(no route)'}".strip()
        try:
            match = resolve(path)
        except Exception:  # a path that leads nowhere, or a configuration that cannot be loaded
            return f"{self.method} (no view)".strip()
        return f"{self.method} {match.view_name}".strip()

    def view(self) -> str | None:
        """Return the name of the view, or the route, None where the path leads to none with a name.

        Asks the URL configuration in force, and only once.
        """
        if self.server is not None:
            return self.server
        path, route = self._routed()
        if route is not None:
            return route or None
        configuration, known = get_urlconf(), self.viewed
        if known is None or known[0] != configuration:
            try:
                name = resolve(path, configuration).view_name or None
            except Exception:  # as in `where()`
                name = None
            known = self.viewed = configuration, name
        return known[1]

    def settle(self) -> None:
        """Let go of the ASGI scope, which leads back here, and keep what names the request."""
        self.path, self.route = self._routed()
        self.asgi = None

    def _routed(self) -> tuple[str, str | None]:
        asgi = self.asgi  # once: the request may end meanwhile
        return (self.path, self.route) if asgi is None else (path_of(asgi), route_of(asgi))

    def may_have_committed(self) -> bool:
        """Return whether this request may have committed something, so must not be repeated."""
        if self.committed or self.direct:
            return True
        return any(wrapper.may_have_committed() for wrapper in self.wrappers)


_current: ContextVar[RequestScope | None] = ContextVar("django_poolkit_request", default=None)


current: Final = _current.get
"""Return the scope of the request being served, None outside of one."""


# Each request passes these several times: they are Python's own, and what follows is a class,
# since a generator costs a dozen calls each time.
enter: Final = _current.set
"""Make a scope the current one; return what `leave()` wants. For a function to enter and leave
itself, so in one context: what may end in another, as a coroutine may, takes `entered`."""

leave: Final = _current.reset
"""Make the scope the current one that was it before `enter()`. Raises ValueError in another
context."""


class entered:  # noqa: N801 - used as a verb
    """Make `scope` the current one for the length of a `with` block."""

    __slots__ = ("_scope", "_token")

    def __init__(self, scope: RequestScope) -> None:
        self._scope = scope

    def __enter__(self) -> RequestScope:
        self._token: Token[RequestScope | None] = _current.set(self._scope)
        return self._scope

    def __exit__(self, *_: object) -> None:
        # A coroutine that its finalizer closes ends in another context than it began in.
        try:  # noqa: SIM105 - which would be three calls more
            _current.reset(self._token)
        except ValueError:
            pass

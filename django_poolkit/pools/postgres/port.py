"""Where a connection waits that need not block its thread: the port that `pools/bridge/` fills.

Whoever has not loaded the bridge has no greenlets either, and need not have the library.
"""

from __future__ import annotations

from _thread import get_ident
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any
from weakref import WeakSet


class _Nobody:
    """The class of no greenlet at all."""


# Each statement asks `type(port.getcurrent()) is port.Greenlet`: a function of ours in between
# would be the dearest part of it. What `get_ident()` returns is of another class, and cheap.
getcurrent: Callable[[], Any] = get_ident
"""Returns the greenlet that runs.

A frame that outlives its thread, as in a traceback, must not know the greenlet of the thread
itself: greenlet 3.5 frees that one too early where the garbage collector is at the frame, and the
process dies. So no variable holds what may be it.
"""
Greenlet: Any = _Nobody
"""Of what class one in the bridge is."""


def _no_bridge(*_: Any) -> Any:
    raise AssertionError("nobody is in a bridge that has not been loaded")


wait: Callable[..., Any] = _no_bridge
"""Waits as `psycopg.Connection.wait()` does, in the bridge, until the caller's deadline at most."""
read: Callable[..., Any] = _no_bridge
"""The same without a deadline of the caller's, for what the pool itself asks."""
await_only: Callable[[Awaitable[Any]], Any] = _no_bridge
"""Returns what an awaitable returns, in the bridge."""
shielded: Callable[..., AbstractContextManager[Any]] = nullcontext
"""A block, in the bridge, at the end of which a cancellation is told; or after some seconds."""
ENDING = 5.0
"""Seconds for which a cancellation waits for a transaction to end, and for its callbacks."""
lock: Callable[[Any], Any] | None = None
"""Makes of a connection's lock one that a call in the bridge may wait for."""
connections: WeakSet[Any] = WeakSet()
"""All there are, whose locks are to be made such where the bridge is loaded after them."""


def all_connections() -> list[Any]:
    """Return all connections there are, also where threads make some meanwhile."""
    while True:
        with suppress(RuntimeError):  # one was made while this looked
            return list(connections)

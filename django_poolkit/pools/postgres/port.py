"""Where a connection waits that need not block its thread: the port that `pools/bridge/` fills.

Whoever has not loaded the bridge has no greenlets either, and need not have the library.
"""

from __future__ import annotations

from _thread import get_ident
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any


class _Nobody:
    """The class of no greenlet at all."""


# Each statement asks `type(port.getcurrent()) is port.Greenlet`: a function of ours in between
# would be the dearest part of it. What `get_ident()` returns is of another class, and cheap.
getcurrent: Callable[[], Any] = get_ident
"""Returns the greenlet that runs."""
Greenlet: type = _Nobody
"""Of what class one in the bridge is."""


def _no_bridge(*_: Any) -> Any:
    raise AssertionError("nobody is in a bridge that has not been loaded")


wait: Callable[..., Any] = _no_bridge
"""Waits as `psycopg.Connection.wait()` does, in the bridge, until the caller's deadline at most."""
read: Callable[..., Any] = _no_bridge
"""The same without a deadline of the caller's, for what the pool itself asks."""
await_only: Callable[[Awaitable[Any]], Any] = _no_bridge
"""Returns what an awaitable returns, in the bridge."""
shielded: Callable[[], AbstractContextManager[Any]] = nullcontext
"""A block, in the bridge, at the end of which a cancellation is told."""

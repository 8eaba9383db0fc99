"""The errors of an asyncpg pool: ours, and asyncpg's at the same time."""

from __future__ import annotations

import asyncpg

from django_poolkit.pools import errors


class PoolClosed(errors.PoolClosed, asyncpg.InterfaceError):
    """The pool is closed, or was never opened."""


class PoolTimeout(errors.PoolTimeout, asyncpg.InterfaceError):
    """No connection became free within the timeout. A TimeoutError, as asyncpg's own is."""


class PoolPaused(errors.PoolPaused, asyncpg.InterfaceError):
    """The pool stayed paused for as long as the caller was ready to wait."""


class TooManyWaiters(errors.TooManyWaiters, asyncpg.InterfaceError):
    """The queue of the pool already holds `MAX_WAITING` waiters."""


class WrongLoop(errors.WrongLoop, asyncpg.InterfaceError):
    """A lease was used on another event loop than the one it was acquired on."""


class LeaseReleased(errors.LeaseReleased, asyncpg.InterfaceError):
    """A connection was used after its lease had been given back."""

"""After a fork the child forgets the connections of its parent, and opens its own.

Forgetting is not closing: the socket is shared, and a farewell on it would end the parent's
session. So the objects are kept for as long as the child lives. (psycopg's own finalizer
compares process ids, psycopg 3.3 `pq/pq_ctypes.py`, so even at exit nothing is sent.)

At the end of a process each pool is closed that is still open: its threads are stopped by the
interpreter before anybody else could wait for them.
"""

from __future__ import annotations

import weakref
from typing import Any, Final, Protocol

from django_poolkit.pools.endings import at_end
from django_poolkit.pools.forks import in_child

# Seconds a pool, at the end of the process.
_FAREWELL: Final = 1.0


class Forgetful(Protocol):
    """What can start anew in a child process, and be closed."""

    def forget(self) -> list[Any]: ...
    def close(self, timeout: float) -> None: ...


# Added to by each pool as it is made; read in the child, where one thread runs.
_pools: weakref.WeakSet[Any] = weakref.WeakSet()
_inherited: list[Any] = []


def register(pool: Forgetful) -> None:
    """Have `pool.forget()` called in each forked child, and `pool.close()` at exit."""
    _pools.add(pool)


def _after_in_child() -> None:
    for pool in list(_pools):
        _inherited.extend(pool.forget())


def _at_exit() -> None:
    for pool in list(_pools):
        pool.close(_FAREWELL)


in_child(_after_in_child)
at_end(_at_exit)

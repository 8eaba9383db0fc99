"""The process's tables of pools and client sessions: keys, closing, the latch after shutdown.

Pools are keyed by the content of their settings, so that two aliases on one database share a
pool, and a copy with other options gets its own. The table is the one place that knows when a
process ends; after a fork each pool forgets by itself (`pools/postgres/fork.py`).
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar

from django.db import connections

from django_poolkit.pools.endings import at_end
from django_poolkit.pools.errors import PoolClosed
from django_poolkit.pools.events import Events
from django_poolkit.pools.forks import in_child
from django_poolkit.pools.postgres import ConnectionPool
from django_poolkit.session_table import Measured, SessionTable

if TYPE_CHECKING:
    from django_poolkit.pools.asyncpg.pool import AsyncpgPool

# Programs that say by their first argument what they do.
_LAUNCHERS: Final = ("manage.py", "django-admin", "django")


def content_key(value: Any) -> Hashable:
    """Return a hashable stand-in for a settings value: equal content, equal key.

    What cannot be compared by content, as a callable, stands for itself.
    """
    if isinstance(value, Mapping):
        return ("map", frozenset((key, content_key(item)) for key, item in value.items()))
    if isinstance(value, (list, tuple)):
        return ("list", tuple(content_key(item) for item in value))
    if isinstance(value, (set, frozenset)):
        return ("set", frozenset(content_key(item) for item in value))
    try:
        hash(value)
    except TypeError:
        return ("id", id(value))
    # 1 and True are one key to a dict, and different options to a driver.
    return (type(value), value)


class Pooled(Measured, Protocol):
    """A pool, as its table sees it."""

    events: Events


P = TypeVar("P", bound=Pooled)


class Table(Generic[P]):
    """The pools of one kind in this process, by the content of their settings."""

    def __init__(self, close: Callable[[P, float], None], events: Events | None = None) -> None:
        self._close = close
        """Closes one for good, within so many seconds."""
        # Guards the three below. Nothing is opened or closed inside it. Reentrant: a finalizer may
        # ask for a pool at any line.
        self._lock = threading.RLock()
        self._pools: dict[Hashable, P] = {}
        self._places: dict[Hashable, Hashable] = {}
        self._latched = False
        self.events = events or Events()
        """What happens in any of them."""

    def get(
        self,
        key: Hashable,
        make: Callable[[str], P],
        *,
        alias: str,
        also: tuple[str, ...] = (),
        place: Hashable,
        name: str | None = None,
    ) -> P:
        """Return the pool of these settings, made by `make(name)` if there is none.

        It is named `name`, or else by the alias, and serves those in `also` as well. `place`
        says which database it leads to, for `close_place()`. Raises PoolClosed once the process
        is shutting down.
        """
        pool = self._pools.get(key)
        if pool is not None and alias in pool.aliases and not pool.ended:
            return pool
        with self._lock:
            if self._latched:
                raise PoolClosed(
                    f"no pool is opened for {alias!r} any more: this process is shutting down",
                    pool=alias,
                )
            pool = self._pools.get(key)
            if pool is None or pool.ended:  # somebody closed the pool itself
                self._pools.pop(key, None)
                self._places.pop(key, None)  # what cannot be made again is nowhere
                made = make(self._free_name(name or alias))
                made.aliases = (alias, *also)
                made.events = self.events
                pool = self._pools.setdefault(key, made)  # a finalizer may have been quicker
                self._places[key] = place
            if alias not in pool.aliases:
                others = (name for name in also if name not in pool.aliases)
                pool.aliases = (*pool.aliases, alias, *others)
            return pool

    def close_place(self, place: Hashable) -> None:
        """Close every pool that leads to one database, whatever its other settings.

        They leave the table first, so that whoever acquires meanwhile gets a new pool.
        """
        with self._lock:
            keys = [key for key, where in self._places.items() if where == place]
            pools = [self._pools.pop(key) for key in keys]
            for key in keys:
                del self._places[key]
        for pool in pools:
            self._close(pool, 5.0)

    def shut_down(self, timeout: float = 5.0) -> None:
        """Close all pools, and refuse to open another in this process.

        Blocks for `timeout` seconds a pool at most.
        """
        self._latched = True
        self.close_all(timeout)

    def close_all(self, timeout: float = 5.0) -> None:
        """Close all pools. The next acquire opens a new one."""
        with self._lock:
            pools = list(self._pools.values())
            self._pools.clear()
            self._places.clear()
        for pool in pools:
            self._close(pool, timeout)

    def reopen(self) -> None:
        """Take back `shut_down()`: for servers that start again in one process, and tests."""
        self._latched = False

    def __iter__(self) -> Iterator[P]:
        with self._lock:
            return iter(list(self._pools.values()))

    def __len__(self) -> int:
        return len(self._pools)

    def __repr__(self) -> str:
        # Keys hold passwords, so nothing but names is shown.
        return f"<{type(self).__name__} {[pool.name for pool in self]}>"

    def _free_name(self, wanted: str) -> str:
        taken = {pool.name for pool in list(self._pools.values())}
        name, count = wanted, 1
        while name in taken:
            count += 1
            name = f"{wanted}~{count}"
        return name

    def _renew_lock(self) -> None:
        self._lock = threading.RLock()
        self.events.after_fork()


class PoolTable(Table[ConnectionPool]):
    """The pools of psycopg connections in this process."""

    def __init__(self) -> None:
        super().__init__(ConnectionPool.close)


class Process:
    """This process, as those see it who look at its pools from outside."""

    def __init__(self) -> None:
        self.after_fork()

    def after_fork(self) -> None:
        """Begin anew in a forked child."""
        self.pid = os.getpid()
        self.started = time.time()
        """When it began, or was forked, as far as this module has seen it, by the wall clock."""
        self._since = time.monotonic()
        self.draining = False
        """Whether it is to be sent no more requests: its readiness fails, acquires go on."""

    @property
    def age(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self._since

    @property
    def command(self) -> str:
        """What it runs: the program's name and, of Django's commands, which one. No arguments."""
        path = PurePath(sys.argv[0] if sys.argv else "")
        name = path.parent.name if path.name == "__main__.py" else path.name
        if name in _LAUNCHERS:
            name = " ".join([name, *sys.argv[1:2]])
        return name or "python"

    def drain(self) -> None:
        """Let readiness fail from now on. Does not block, and ends no request."""
        self.draining = True

    def undrain(self) -> None:
        """Take back `drain()`."""
        self.draining = False


class ConnectionPools(Mapping[str, ConnectionPool]):
    """The pools behind `DATABASES`, by alias: `connection_pools["default"].lease()`.

    An alias with several hosts has a pool for each: `connection_pools["replica/1"]`. A pool is
    made when it is first asked for, and opened at its first acquire. Raises KeyError for an alias
    that does not exist or is not pooled, or has several pools.
    """

    def __getitem__(self, name: str) -> ConnectionPool:
        alias = name if name in connections.settings else name.rpartition("/")[0]
        if alias not in connections.settings:
            raise KeyError(f"DATABASES has no alias {name!r}")
        wrapper = connections[alias]
        hosts: Mapping[str, ConnectionPool] | None = getattr(wrapper, "host_pools", None)
        if hosts is not None and name in hosts:
            return hosts[name]
        if hosts is not None:
            raise KeyError(
                f"DATABASES[{alias!r}] leads to several hosts, each of which has a pool of its "
                f"own: {', '.join(map(repr, hosts))}"
            )
        if name != alias:
            raise KeyError(f"DATABASES[{alias!r}] has no OPTIONS['hosts'], so no pool {name!r}")
        pool = getattr(wrapper, "pool", None)
        if not isinstance(pool, ConnectionPool):
            raise KeyError(
                f"DATABASES[{alias!r}] is not pooled by django_poolkit: its ENGINE is "
                f"{connections.settings[alias]['ENGINE']!r}, or OPTIONS['pool'] is False"
            )
        return pool

    def __iter__(self) -> Iterator[str]:
        for alias in connections:
            hosts = getattr(connections[alias], "host_pools", None)
            if hosts is not None:
                yield from hosts
            elif isinstance(getattr(connections[alias], "pool", None), ConnectionPool):
                yield alias

    def __len__(self) -> int:
        return sum(1 for _ in self)


pools = PoolTable()
asyncpg: Table[AsyncpgPool] = Table(
    lambda pool, seconds: pool.close_from_thread(seconds), pools.events
)
"""The pools of asyncpg connections. Who listens to the others hears of these, too."""
sessions = SessionTable()
process = Process()
connection_pools = ConnectionPools()


def measured() -> Iterator[Measured]:
    """Return every pool and every client session of this process."""
    yield from pools
    yield from asyncpg
    yield from sessions


# The fork may have happened while another thread held the lock, which the child has not got.
in_child(pools._renew_lock)
in_child(asyncpg._renew_lock)
in_child(sessions.after_fork)
in_child(process.after_fork)
# Threads of a pool that is still open at exit would be cut off in the middle of a statement.
at_end(pools.shut_down, 1.0)
at_end(asyncpg.shut_down, 1.0)
at_end(sessions.shut_down, 1.0)

"""What the tests of the pools share."""

from __future__ import annotations

import itertools
import select
import threading
from collections.abc import Callable
from typing import Any

from psycopg.adapt import Dumper
from psycopg.types.string import TextLoader

from django_poolkit.pools.lease import Lease
from django_poolkit.pools.postgres import ConnectionPool
from django_poolkit.pools.stats import Histogram, PoolStats
from django_poolkit.testing import Node
from django_poolkit.testing.waiting import wait_until

PATIENCE = 10.0
_numbers = itertools.count(1)


class Upper(TextLoader):
    """A loader that leaves its mark on a text."""

    def load(self, data: Any) -> Any:
        """Return the text in capitals."""
        text = super().load(data)
        assert isinstance(text, str)
        return text.upper()


class Money:
    """What psycopg has no dumper for."""


class MoneyDumper(Dumper):
    """Its dumper."""

    def dump(self, obj: Any) -> Any:
        """Return five of it."""
        return b"5"


def make_stats(**values: Any) -> PoolStats:
    """Return a snapshot with values that a test does not care for filled in."""
    empty = Histogram().snapshot()
    counts = (
        "size", "idle", "used", "connecting", "waiters", "oldest_waiter", "oldest_lease",
        "acquired", "waited", "timeouts", "too_many_waiters", "connects", "connect_errors",
        "resets", "leaks", "overdue", "min_size",
    )  # fmt: skip
    rest: dict[str, Any] = {
        "name": "default", "mode": "session", "state": "open", "max_size": 8,
        "last_connect_error": None, "wait": empty, "use": empty, "connect": empty,
    }  # fmt: skip
    return PoolStats(**dict.fromkeys(counts, 0) | rest | values)


class Call(threading.Thread):
    """A call that runs in a thread of its own. `result()` waits for it."""

    def __init__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        super().__init__(daemon=True)
        self._work = function, args, kwargs
        self._answer: Any = None
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        function, args, kwargs = self._work
        try:
            self._answer = function(*args, **kwargs)
        except BaseException as error:
            self._error = error

    def result(self, timeout: float = PATIENCE) -> Any:
        """Return what the call returned, or raise what it raised."""
        self.join(timeout)
        assert not self.is_alive(), "the call has not ended"
        if self._error is not None:
            raise self._error
        return self._answer


def queue_up(pool: ConnectionPool, function: Callable[..., Any], *args: Any, **kw: Any) -> Call:
    """Call `function` in a thread, and return when it stands in the queue of the pool."""
    before = pool.stats().waiters
    call = Call(function, *args, **kw)
    wait_until(lambda: pool.stats().waiters == before + 1, message="it does not queue")
    return call


def pid(lease: Lease) -> int:
    """Return the server process of a lease."""
    return int(lease.connection.info.backend_pid)


def fill(pool: ConnectionPool, count: int) -> list[int]:
    """Make `count` connections idle; return their server processes, first released first."""
    leases = [pool.acquire() for _ in range(count)]
    pids = [pid(lease) for lease in leases]
    for lease in leases:
        lease.release()
    assert pool.stats().idle == count
    return pids


def idle_pids(pool: ConnectionPool) -> list[int]:
    """Return the server processes of the idle connections, longest idle first."""
    pool.collect()
    return [connection.info.backend_pid for connection in pool._pool]


def wait_for_the_end(connection: Any) -> None:
    """Wait until the other end of a connection's socket has closed, and not only spoken."""
    poller = select.poll()
    poller.register(connection.pgconn.socket, select.POLLRDHUP)
    wait_until(lambda: poller.poll(0), message="the server does not close the connection")


def unique(prefix: str = "pool") -> str:
    """Return a name that no other test uses, for `application_name`."""
    return f"{prefix}-{next(_numbers)}"


def assert_adds_up(pool: ConnectionPool, node: Node, application_name: str) -> None:
    """Hold the pool's figures against each other, and against what the server counts."""
    wait_until(lambda: not pool.stats().connecting, message="it goes on connecting")
    stats = pool.stats()
    assert stats.size == stats.idle + stats.used + stats.connecting
    assert stats.connects - sum(stats.closed.values()) == stats.idle + stats.used
    assert len(pool._pool) == len(set(map(id, pool._pool))) == stats.idle
    wait_until(
        lambda: len(node.sessions(application_name)) == stats.idle + stats.used,
        message=lambda: f"{len(node.sessions(application_name))} sessions, {stats.summary()}",
    )

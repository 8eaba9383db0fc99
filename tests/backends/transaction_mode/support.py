"""Who takes part: the server as it sees itself, and another thread that wants a connection."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import psycopg
from django.db import connection as default_connection
from django.db import connections, transaction

from django_poolkit.pools.postgres import ConnectionPool
from tests.app.models import Item
from tests.scenarios.sessions import facts

# Typed by django-stubs as any backend's.
connection: Any = default_connection

PATIENCE = 20.0
"""Seconds after which something will not happen any more."""
SOON = 0.3
"""The timeout of an acquire that is meant to fail."""

Answer = TypeVar("Answer")


class Broken(Exception):
    """A caller's own error."""


class Server:
    """What the server knows, asked on a connection that belongs to no pool."""

    def __init__(self, connection: psycopg.Connection[Any], name: str) -> None:
        self._connection = connection
        self._name = name
        """The application_name of the connections under test."""

    def ask(self, query: Any, *parameters: Any) -> Any:
        """Return the first value of the answer, None where it has no row."""
        row = self._connection.execute(query, parameters).fetchone()
        return row and row[0]

    def run(self, statement: Any) -> None:
        """Run a statement that has no answer."""
        self._connection.execute(statement)

    @property
    def names(self) -> list[str]:
        """The names of all items that are committed, sorted."""
        return sorted(self._column(f"SELECT name FROM {Item._meta.db_table}"))

    @property
    def locks(self) -> dict[int, int]:
        """The advisory locks that are held, with the backend that holds each."""
        rows = self._connection.execute(
            "SELECT objid, pid FROM pg_locks WHERE locktype = 'advisory' AND granted"
        )
        return dict(rows.fetchall())

    @property
    def backends(self) -> dict[int, str]:
        """The backends of the pool under test, each with its state in pg_stat_activity."""
        rows = self._connection.execute(
            "SELECT pid, state FROM pg_stat_activity WHERE application_name = %s", (self._name,)
        )
        return dict(rows.fetchall())

    def _column(self, query: Any) -> list[Any]:
        return [value for (value,) in self._connection.execute(query)]


class Neighbour:
    """Another thread with connections of its own, that does one thing after the other."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "neighbour")

    def starts(self, act: Callable[..., Answer], *args: Any) -> Future[Answer]:
        """Have it do something, and go on."""
        return self._thread.submit(act, *args)

    def does(self, act: Callable[..., Answer], *args: Any) -> Answer:
        """Have it do something, and return or raise what came of it."""
        return self.starts(act, *args).result(PATIENCE)

    def begins(self) -> int:
        """Have it begin a transaction with a statement in it; return its backend."""

        def begin() -> int:
            transaction.set_autocommit(False)
            return backend()

        return self.does(begin)

    def rolls_back(self) -> None:
        """Have it roll back the transaction that it began."""

        def roll_back() -> None:
            transaction.rollback()
            transaction.set_autocommit(True)

        self.does(roll_back)

    def leaves(self) -> None:
        """Have it close its connections, and wait for its end."""
        self.does(connections.close_all)
        self._thread.shutdown()


def used(pool: ConnectionPool) -> int:
    """Return how many connections are leased now."""
    return pool.stats().used


def acquired(pool: ConnectionPool) -> int:
    """Return how many leases there have been."""
    return pool.stats().acquired


def pins(pool: ConnectionPool) -> dict[str, int]:
    """Return what pinned leases of this pool, and how often."""
    return {str(reason): count for reason, count in pool.stats().pins.items() if count}


def scalar(query: str, *parameters: Any, using: Any = None) -> Any:
    """Run a statement on Django's connection; return the first value, None without a result."""
    with (using or connection).cursor() as cursor:
        cursor.execute(query, parameters or None)
        return cursor.fetchone()[0] if cursor.description else None


def backend(using: Any = None) -> int:
    """Return the backend that serves this thread's next statement."""
    return int(scalar("SELECT pg_backend_pid()", using=using))


def create(name: str) -> Item:
    """Write one row."""
    return Item.objects.create(name=name)


def fill(count: int, name: str = "row") -> None:
    """Write some rows, named and numbered."""
    Item.objects.bulk_create(Item(name=f"{name}{n:03}") for n in range(count))


def next_lease(pool: ConnectionPool) -> tuple[Any, ...]:
    """Return what the next one who acquires finds."""
    lease = pool.acquire()
    try:
        return facts(lease.connection)
    finally:
        lease.release()

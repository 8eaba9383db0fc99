"""The pools of `tests.benchmarks.micro`, each behind the same two steps: use it, and leave."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final

import psycopg
import psycopg_pool
import sqlalchemy

from django_poolkit.pools.postgres import ConnectionPool
from django_poolkit.testing import Node

SIZE: Final = 8
PATIENCE: Final = 60.0
RAW: Final = "psycopg, held"
OURS: Final = "ours"
ALWAYS: Final = "ours, reset always"
THEIRS: Final = "psycopg_pool"
CHECKED: Final = "psycopg_pool, check"
RESETTING: Final = "psycopg_pool, DISCARD ALL"
ALCHEMY: Final = "SQLAlchemy QueuePool"
ASKING: Final = "SQLAlchemy QueuePool, pre-ping"
SELECT: Final = "SELECT 1"
MARK: Final = "SET app.mark = 'somebody'"

Cycle = Callable[[], object]


@dataclass(frozen=True)
class Contestant:
    """Who takes part: how it is used for one statement, or for none."""

    name: str
    use: Callable[[str | None], object]
    resets: bool = False
    """Whether it is there for the sake of its reset, and no news elsewhere."""
    leaves: bool = False
    """Whether it leaves to the next what a statement has left behind."""
    leave: Callable[[], object] = lambda: None
    """What a thread does when it is done."""

    def takes_part(self, statement: str | None) -> bool:
        """Return whether its figure is to be compared with the others'."""
        if statement is None:
            return self.name != RAW and not self.resets
        return statement == SELECT or not self.leaves

    def cycle(self, statement: str | None) -> Cycle:
        """Return what is timed."""
        return lambda: self.use(statement)


def _ours(pool: ConnectionPool) -> Callable[[str | None], object]:
    def use(statement: str | None) -> None:
        lease = pool.acquire()
        try:
            if statement:
                lease.connection.execute(statement)
        finally:
            lease.release()

    return use


def _theirs(pool: psycopg_pool.ConnectionPool[Any]) -> Callable[[str | None], object]:
    def use(statement: str | None) -> None:
        connection = pool.getconn()
        try:
            if statement:
                connection.execute(statement)
        finally:
            pool.putconn(connection)

    return use


def _alchemys(engine: sqlalchemy.Engine) -> Callable[[str | None], object]:
    def use(statement: str | None) -> None:
        fairy = engine.raw_connection()
        try:
            if statement:
                fairy.driver_connection.execute(statement)  # type: ignore[union-attr]
        finally:
            fairy.close()

    return use


def _held(node: Node) -> Contestant:
    local = threading.local()

    def use(statement: str | None) -> None:
        if not hasattr(local, "connection"):
            local.connection = psycopg.connect(**_alike(node))
        if statement:
            local.connection.execute(statement)

    def leave() -> None:
        if hasattr(local, "connection"):
            local.connection.close()
            del local.connection

    return Contestant(RAW, use, leave=leave)


def _alike(node: Node) -> dict[str, Any]:
    return {**node.conninfo(), "autocommit": True, "prepare_threshold": None}


@contextmanager
def contestants(node: Node) -> Iterator[list[Contestant]]:
    """Open the pools, full and idle."""
    both: dict[str, Any] = {"min_size": SIZE, "max_size": SIZE, "timeout": PATIENCE}
    both["kwargs"] = _alike(node)

    def engine(*, ping: bool) -> sqlalchemy.Engine:
        made = sqlalchemy.create_engine(
            "postgresql+psycopg://",
            creator=lambda: psycopg.connect(**_alike(node)),
            pool_size=SIZE, max_overflow=0, pool_timeout=PATIENCE, pool_pre_ping=ping,
        )  # fmt: skip
        stack.callback(made.dispose)
        return made

    def theirs(**more: Any) -> psycopg_pool.ConnectionPool[Any]:
        made = psycopg_pool.ConnectionPool(open=False, **both, **more)
        stack.callback(made.close)
        made.open(wait=True)
        return made

    def ours(**more: Any) -> ConnectionPool:
        made = ConnectionPool(**both, **more)
        stack.callback(made.close)
        made.open(wait=True)
        return made

    with ExitStack() as stack:
        held = _held(node)
        stack.callback(held.leave)
        yield [
            held,
            Contestant(OURS, _ours(ours())),
            Contestant(ALWAYS, _ours(ours(reset="always")), resets=True),
            Contestant(THEIRS, _theirs(theirs()), leaves=True),
            Contestant(
                CHECKED,
                _theirs(theirs(check=psycopg_pool.ConnectionPool.check_connection)),
                leaves=True,
            ),
            Contestant(
                RESETTING, _theirs(theirs(reset=lambda c: c.execute("DISCARD ALL"))), resets=True
            ),
            Contestant(ALCHEMY, _alchemys(engine(ping=False)), leaves=True),
            Contestant(ASKING, _alchemys(engine(ping=True)), leaves=True),
        ]

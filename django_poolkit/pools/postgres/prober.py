"""Asks a server how it is, on a connection of its own beside those of the pool.

A probe through the pool would wait behind the users it is made for, and call a busy pool a dead
server. So there is one connection more, made when somebody asks, and kept for those who ask again.
Every wait has a deadline here, in the driver: libpq's own `connect_timeout` has two seconds for its
least. A statement has one on the server, too, so that nothing is left behind there.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final, Literal, Self

import psycopg
from psycopg.pq import ConnStatus, TransactionStatus

from django_poolkit.pools.poolers import Pooler
from django_poolkit.pools.postgres import probe
from django_poolkit.pools.postgres.connect import Connector, SessionDefaults, sqlstate, summarise
from django_poolkit.pools.postgres.connection import PoolConnection
from django_poolkit.pools.postgres.fence import Fence

Cause = Literal[
    "unreachable", "auth_failed", "timeout", "saturated", "closed", "config_error", "unknown"
]
"""Why a probe has failed. `saturated`: the server has no connection left."""
Parameters = Callable[[], tuple[str, Mapping[str, Any]]]
"""Returns where and how to connect: a connection string, and what comes over it."""

# Seconds that a connection is kept, however often it is asked on: a password that has been
# changed, or a name that leads elsewhere by now, is to be noticed.
_LIFETIME: Final = 300.0
# The part of the time that a kept connection has. The network may have forgotten it, and then
# there must be enough left for another.
_KEPT: Final = 0.6

# In a transaction, so that nothing of it stays on a connection of a pooler in between.
_FRAME: Final = b"""
BEGIN;
SET LOCAL statement_timeout = %d;
SET LOCAL search_path = pg_catalog;
%s;
COMMIT
"""
# A replica that has replayed all it received is up to date only while somebody sends to it; which
# receiver there is, an ordinary role sees by its pid alone.
_QUESTION: Final = b"""
SELECT pg_is_in_recovery(), current_setting('transaction_read_only')::bool,
    CASE WHEN NOT pg_is_in_recovery() THEN NULL
         WHEN pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn()
              AND EXISTS (SELECT FROM pg_stat_get_wal_receiver() r WHERE r.pid IS NOT NULL) THEN 0
         ELSE extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()) END
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a server says of itself."""

    seconds: float
    """How long it took, with the connect where there was one."""
    in_recovery: bool
    """Whether it is a replica."""
    read_only: bool
    """Whether a transaction that says nothing else cannot write."""
    lag: float | None
    """Seconds by which a replica is behind, None for a primary and where nobody can tell."""


class ProbeFailed(ConnectionError):
    """A server did not answer. Its text names neither address nor secret."""

    def __init__(self, cause: Cause, text: str, state: str = "") -> None:
        super().__init__(text)
        self.cause: Final = cause
        self.sqlstate: Final = state
        """What the server has said, empty where it said nothing."""


class Prober:
    """Asks one server. Makes a connection when it is asked, and keeps it until `release()`."""

    # Whoever asks how a server is has to see also one that the pool must not lead to.
    _lenient = True

    def __init__(
        self,
        parameters: Parameters,
        *,
        name: str,
        fence: Fence | None = None,
        pooler: Pooler | None = None,
    ) -> None:
        self._parameters = parameters
        self._pooler = pooler
        self._name = name
        self._fence = fence
        self._closed = False
        self._generation = 0
        self._begin()

    def _begin(self) -> None:
        # Whoever asks holds it, for as long as that takes. It guards the connection.
        self._turn = threading.Lock()
        self._connection: _ProbeConnection | None = None
        self._connecting = False

    @property
    def connections(self) -> int:
        """How many connections it has, 0 or 1, one that is being made among them."""
        return int(self._connecting or self._connection is not None)

    def ask(self, seconds: float) -> Answer:
        """Ask the server how it is. Blocks and raises as `row()`."""
        started = monotonic()
        in_recovery, read_only, lag = self.row(framed(_QUESTION, seconds), seconds)
        return Answer(
            seconds=monotonic() - started,
            in_recovery=in_recovery == b"t",
            read_only=read_only == b"t",
            lag=None if lag is None else max(0.0, float(lag)),
        )

    def row(self, statements: bytes, seconds: float) -> list[bytes | None]:
        """Return the one row of some statements, as the server writes it.

        Blocks for `seconds`, and a tenth of a second more at most; a resolver of names may take
        longer. A connection that has died is replaced once. Raises ProbeFailed.
        """
        deadline = monotonic() + seconds
        if not self._turn.acquire(timeout=max(0.0, seconds)):
            raise ProbeFailed("timeout", "another probe of the same server has not ended")
        secrets: list[str] = []
        try:
            return self._row(statements, deadline, seconds, secrets)
        except ProbeFailed:
            raise
        except Exception as error:
            state = sqlstate(error) or ""
            raise ProbeFailed(cause_of(error), summarise(error, *secrets), state) from None
        finally:
            self._turn.release()
            self._sweep()

    def release(self) -> None:
        """Close what is kept. The next who asks connects anew. Does not block."""
        self._generation += 1
        self._sweep()

    def close(self) -> None:
        """Close what is kept, for good. Does not block; a probe under way ends first."""
        self._closed = True
        self.release()

    def forget(self) -> list[Any]:
        """Begin anew in a forked child; return what must be kept and never be closed."""
        inherited = [self._connection]
        self._begin()
        return inherited

    def _row(
        self, statements: bytes, deadline: float, seconds: float, secrets: list[str]
    ) -> list[bytes | None]:
        if self._closed:
            raise ProbeFailed("closed", "the pool has been closed")
        if self._connection is not None and not self._stale(self._connection):
            share = min(seconds, max(0.0, deadline - monotonic())) * _KEPT
            found = self._on_the_kept_one(statements, share)
            if found is not None:
                return found
        self._drop()
        self._connecting = True
        try:
            connection = self._connect(deadline, secrets)
            self._connection = connection
        finally:
            self._connecting = False
        try:
            return _run(statements, connection, deadline - monotonic())
        except BaseException:
            self._drop()
            raise

    def _on_the_kept_one(self, statements: bytes, share: float) -> list[bytes | None] | None:
        """Ask on the connection that is there; return None where it is dead."""
        assert self._connection is not None
        try:
            return _run(statements, self._connection, share)
        except psycopg.errors._WaitTimeout:
            return None
        except psycopg.Error:
            if self._connection.pgconn.status != ConnStatus.OK:
                return None
            self._drop()  # the server has answered, and another would hear the same
            raise
        except BaseException:
            self._drop()
            raise

    def _connect(self, deadline: float, secrets: list[str]) -> _ProbeConnection:
        generation = self._generation
        conninfo, given = self._parameters()
        # In whole seconds, and two at least; so the deadline comes first.
        patience = math.ceil(max(2.0, deadline - monotonic()))
        kwargs = {"connect_timeout": patience, **given, "autocommit": True}
        secrets += [str(kwargs.get("password") or ""), _password_in(conninfo)]
        connector = Connector(
            _ProbeConnection, SessionDefaults(), name=self._name, timeout=patience,
            pooler=self._pooler,
        )  # fmt: skip
        connector.fence, connector.lenient = self._fence, self._lenient
        _here.deadline = deadline
        try:
            wait = deadline - monotonic()
            connection = connector.connect(conninfo, kwargs, secrets=secrets, wait=wait)
        finally:
            del _here.deadline
        assert isinstance(connection, _ProbeConnection)
        connection._pool = None  # psycopg's mark of one that may end with its process
        connection._generation = generation
        connection._expire_at = monotonic() + _LIFETIME
        return connection

    def _stale(self, connection: _ProbeConnection) -> bool:
        return connection._generation != self._generation or connection._expire_at <= monotonic()

    def _sweep(self) -> None:
        """Close what is not to be kept, unless somebody is asking: who does comes here after."""
        while (
            (connection := self._connection) is not None
            and connection._generation != self._generation
            and self._turn.acquire(blocking=False)
        ):
            try:
                self._drop()
            finally:
                self._turn.release()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(psycopg.Error, OSError):
                connection.close()


def cause_of(error: BaseException) -> Cause:
    """Return what a failed probe comes down to."""
    late = (psycopg.errors.ConnectionTimeout, psycopg.errors._WaitTimeout, TimeoutError)
    if isinstance(error, (*late, psycopg.errors.QueryCanceled)):
        return "timeout"
    state = sqlstate(error) or ""
    if state[:2] == "28" or state == "42501":
        return "auth_failed"
    if state in ("3D000", "3F000") or isinstance(error, psycopg.ProgrammingError):
        return "config_error"
    if state == "53300":
        return "saturated"
    if isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError, OSError)):
        return "unreachable"
    return "unknown"


# The deadline of the connect that this thread makes: psycopg makes connections of a class.
_here = threading.local()


class _ProbeConnection(PoolConnection):
    _expire_at = 0.0

    @classmethod
    def _connect_gen(cls, conninfo: str = "") -> Generator[Any, int, Self]:
        """Connect, and give up at the deadline: one for all addresses of all hosts."""
        steps = super()._connect_gen(conninfo)
        deadline: float = _here.deadline
        try:
            wanted = next(steps)
            # psycopg asks again ten times a second (_WAIT_INTERVAL), also where nothing comes.
            while monotonic() < deadline:
                wanted = steps.send((yield wanted))
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        steps.close()
        raise psycopg.errors.ConnectionTimeout("connection timeout expired")


def framed(select: bytes, seconds: float) -> bytes:
    """Return the statements that ask by `select`, to which the server itself gives `seconds`.

    Names in it are looked up in `pg_catalog`.
    """
    return _FRAME % (max(1, round(1000 * seconds)), select)


def _run(statements: bytes, connection: _ProbeConnection, timeout: float) -> list[bytes | None]:
    if timeout <= 0:
        raise psycopg.errors._WaitTimeout("wait timeout expired")
    results = probe.execute(connection, statements, timeout)
    if connection.pgconn.transaction_status != TransactionStatus.IDLE:
        raise psycopg.InterfaceError("the server did not end the transaction")
    [row] = [result for result in results if result.ntuples]
    return [row.get_value(0, column) for column in range(row.nfields)]


def _password_in(conninfo: str) -> str:
    try:
        return str(psycopg.conninfo.conninfo_to_dict(conninfo).get("password") or "")
    except psycopg.ProgrammingError:
        # libpq's message quotes from it, which may be the password.
        raise psycopg.ProgrammingError("the connection string cannot be parsed") from None

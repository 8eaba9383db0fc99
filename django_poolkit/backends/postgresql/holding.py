"""When a lease of transaction mode is taken, and when nothing needs it any more.

A wrapper is *open* from its first use to `close()`, as in session mode. What comes and goes
meanwhile is the lease: taken where Django opens a cursor, given back where the last cursor is
closed, if nothing else needs it. The cursors are counted on the lease, by the psycopg cursor
class, since everybody's cursors pass there.

Threads. A wrapper belongs to one thread. Another one can only count a cursor out, which its
garbage collector may do. If that was the last, a passer-by ends the lease: it decides behind
`_gate`, and the owner passes the gate before it uses a lease that has lost cursors that way.
The owner first says that it uses the lease, and then looks whether cursors are gone; the other
does it the other way round. So one of them sees the other.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable
from operator import methodcaller
from types import FrameType
from typing import Any, TypeAlias

from django.db.backends.base import base as generic
from django.db.backends.postgresql import base as postgresql
from django.db.backends.postgresql.psycopg_any import IsolationLevel
from django.db.backends.signals import connection_created
from django.db.utils import ProgrammingError
from psycopg.pq import TransactionStatus

from django_poolkit.backends.postgresql.errors import EXHAUSTED
from django_poolkit.backends.postgresql.greeting import GreetingMixin
from django_poolkit.backends.postgresql.pooling import Twins
from django_poolkit.backends.request import RequestScope
from django_poolkit.pools.errors import PoolClosed
from django_poolkit.pools.forks import in_child
from django_poolkit.pools.lease import Lease
from django_poolkit.pools.postgres import ConnectionPool
from django_poolkit.pools.postgres.connection import REPORTED, no_lease

_IDLE = TransactionStatus.IDLE
_UNKNOWN = TransactionStatus.UNKNOWN

# Where each statement passes: the modules of Django's own wrappers.
_GENERIC, _POSTGRESQL = vars(generic), vars(postgresql)
# Django's own that prepare a connection for new types, and cannot do it to none.
_PREPARING = {"django.contrib.postgres.operations", "django.contrib.postgres.signals"}
# A lease of a statement is short, and its stack is taken for each: so only where it matters.
_DEPTH = 10
_SKIPPED = 5

Found: TypeAlias = ConnectionPool | Twins
"""The one pool of an alias, or that of each of its hosts."""

# Reentrant, for finalizers.
_gate = threading.RLock()


def _prepares(frame: FrameType) -> bool:
    return frame.f_globals.get("__name__") in _PREPARING


class HoldingMixin(GreetingMixin):
    """Takes a lease when it is needed, and gives it back when it is not."""

    _outside: Callable[[FrameType], bool]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # All of it is written by the thread that the wrapper belongs to.
        self._opened = False  # in transaction mode; in session mode there is a connection, or none
        self._met = False  # whether Django's ensure_connection() has been passed since then
        self._wanted = False  # whether who connects goes on to use the lease
        self._steady: ConnectionPool | None = None
        self._last: Lease | None = None  # the one before, which may rest in its pool
        self._me: weakref.ref[HoldingMixin] | None = None
        self.first: Any = None
        """Held by who takes the lease of a block of async code."""
        super().__init__(*args, **kwargs)

    # -- open, with or without a lease

    def _by_statement(self) -> bool:
        if self._opened:
            return True
        if self._raw is not None:
            return False
        # On the way to a connection it is known, and asked for more than once.
        known = self._known if self._handed is None else None
        pool = known if isinstance(known, ConnectionPool) else self.pool
        return pool is not None and pool.config.mode == "transaction"

    @property
    def connection(self) -> Any:
        """psycopg's connection, None where there is none.

        In transaction mode Django's own modules see the one leased at the moment. Others get
        one as long as the wrapper is open, and it is held from then on: who knows what for.
        """
        if self._opened:
            frame = sys._getframe(1)
            module = frame.f_globals
            if (
                module is not _GENERIC
                and module is not _POSTGRESQL
                and (self._outside(frame) or (self._raw is None and _prepares(frame)))
            ):
                return self._exposed()
        if self._watch is not None:
            self._note_access(sys._getframe(1))
        return self._raw

    @connection.setter
    def connection(self, value: Any) -> None:
        self._raw = value
        if value is None:
            self._opened = False

    def _exposed(self) -> Any:
        owner: int = self._thread_ident  # type: ignore[attr-defined]
        if owner != threading.get_ident() and not self.allow_thread_sharing:
            return self._raw
        if self._raw is not None and self._raw._lease_ref is no_lease:
            return self._raw  # receivers see it: what they leave behind is its ground state
        lease = self._hold()
        lease.mark_dirty("raw")
        lease.cursor_closed()
        return self._raw

    def _open(self, found: Found) -> None:
        # As Django's connect() has it, but for what needs a connection.
        self.check_settings()
        self._host = None
        self._steady = None if isinstance(found, Twins) else found
        pool = self._steady or found.pool(None)  # type: ignore[union-attr]
        self._outside = pool.statements.outside
        self.isolation_level = self._chosen_isolation_level() or IsolationLevel.READ_COMMITTED
        self._begin()
        self.autocommit = self.settings_dict["AUTOCOMMIT"]
        self.run_on_commit = []
        self._me = self._me or weakref.ref(self)
        self._met = False
        self._opened = True

    def _ensure_open(self) -> None:
        if not self._opened:
            self._refuse_closed_in_transaction()
            with self.wrap_database_errors:
                self._open(self._needed())

    def _needed(self) -> Found:
        """Return the pool that there has to be in transaction mode, or that of each host."""
        found = self._found()
        assert found is not None
        return found

    def _refuse_closed_in_transaction(self) -> None:
        if self.in_atomic_block and self.closed_in_transaction:
            raise ProgrammingError("Cannot open a new connection in an atomic block.")

    # -- taking and ending a lease

    def _hold(self, alone: bool = False) -> Lease:
        """Return a lease that stays until its `cursor_closed()`, the present one or a new one."""
        if self._lease is not None and (lease := self._present()) is not None:
            return lease
        if (first := self.first) is not None and not alone:
            # A thread takes no turns: one of two who begin at once has what the other has taken.
            with first:
                return self._hold(alone=True)
        if self._opened and self._met:
            try:
                lease = self._take()
            except Exception:
                with self.wrap_database_errors:
                    raise
        else:
            # By Django's own method, which its test cases guard. It calls connect().
            self._wanted = True
            try:
                super().ensure_connection()
            finally:
                self._wanted = False
            lease = self._lease or self._take()
        lease.cursors += 1
        return lease

    def _present(self) -> Lease | None:
        """Return the present lease, held as by `_hold()`, None if there is none."""
        if self._lease is not None:
            self.close_if_health_check_failed()  # it may be one of a request that is over
        if (lease := self._lease) is not None:
            if self._raw is None:
                self._raw = lease._connection  # an interrupt hit whoever was about to end it
            lease.cursors += 1
            if not lease.gone:
                return lease
            with _gate:
                if self._lease is lease:
                    return lease
        return None

    def _take(self, between: int = 0) -> Lease:
        pool, self._steady = self._steady, None  # the settings may change before a second try
        lease: Lease | None = None
        last, self._last = self._last, None
        try:
            try:
                if (
                    last is not None
                    and last.pool is pool
                    and last.pool.rouse(last, _DEPTH, _SKIPPED + between)
                ):
                    lease = last
                elif pool is None:
                    lease = self._lease_from(self._found(), _DEPTH, _SKIPPED + 1 + between)
                else:
                    lease = pool.acquire(depth=_DEPTH, skip=_SKIPPED + between)
            except PoolClosed:
                lease = self._acquired(_acquire)
            except EXHAUSTED as error:
                self._note_exhausted(error)
                raise
            if self._host is None and not self._reroutes:
                self._steady = lease.pool  # type: ignore[assignment]
            if last is not lease and last is not None:
                last.pool.end_rest(last)
            lease.keeper = self._me
            if lease.loop is not None and self._thread_ident != threading.get_ident():  # type: ignore[attr-defined]
                # The block is a thread's, which `async_to_sync()` lends: it outlives this loop.
                lease.loop = lease.task = None
            self._take_over(lease)
            raw = self._raw = lease._connection
            self.errors_occurred = False
            if raw._greeted != (lease.pool.greeting, connection_created.receivers):
                self._greet(lease, raw)
            raw._autocommit = self.autocommit  # psycopg's setter would look whether it is at rest
            if self._hand is not no_lease and self._by_hand:
                lease.mark_dirty("pinned")
        except BaseException:
            # Django may keep the traceback, and with it all that this frame knows.
            if lease is not None:
                self._throw_away(lease)
            raise
        return lease

    def on_idle(self, lease: Lease) -> None:
        """Give the lease back, if it is the present one, and nothing needs it any more."""
        if lease is not self._lease or not self._idle(lease):
            return
        self._lease = self._raw = None
        scope, self._scope = self._scope, None
        if scope is not None and not scope.claim(lease):
            return  # the end of its request was faster
        lease.keeper = None
        if lease.new_types:
            lease.pool.greeting = object()
        if lease.committed or lease.wrote:
            self._note_end(lease, scope)
        try:
            if lease.pool.rest(lease):
                self._last = lease
        except Exception:
            with self.wrap_database_errors:
                raise

    def on_adrift(self, lease: Lease) -> None:
        """Do the same in another thread than the wrapper's."""
        with _gate:
            if self._lease is not lease or not self._idle(lease):
                return
            scope = self._detach()
        self._end(lease, scope)

    def _idle(self, lease: Lease) -> bool:
        """Return whether no cursor, transaction, pipeline or COPY is open, and nothing pins it."""
        if lease.pinned is not None or lease.cursors > len(lease.gone) or not self.autocommit:
            return False
        connection = lease._connection
        if connection is None or not self.settings_dict["AUTOCOMMIT"]:
            return False
        status = connection.pgconn.transaction_status
        if status != _IDLE:
            return bool(status == _UNKNOWN)  # it is lost, and the pool closes it
        if connection._pipeline or connection._num_transactions or connection._tpc:
            return False
        if lease.ran and lease.dirty is None:
            # Spelled out, as what follows in `release_idle()`.
            read = connection.pgconn.parameter_status
            if [*map(read, REPORTED)] != connection._baseline.parameters:
                lease.mark_dirty("parameter")  # set where no text shows it
                return False
            lease.ran = False  # so that the release does not look again
        return True

    def _end(self, lease: Lease, scope: RequestScope | None) -> None:
        lease.keeper = None
        if lease.new_types:
            lease.pool.greeting = object()
        super()._end(lease, scope)


# From the caller of Django's cursor() on, and no further than the ORM is deep.
_acquire: Callable[[ConnectionPool | None], Lease] = methodcaller(
    "acquire", depth=_DEPTH, skip=_SKIPPED + 1
)


def _after_fork() -> None:
    global _gate
    _gate = threading.RLock()


in_child(_after_fork)

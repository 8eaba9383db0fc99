"""Transaction mode: Django's verbs on a wrapper that may be open without a connection.

Outside a transaction a lease lasts for a statement, inside `atomic()` from the first statement
to the end of the block.
"""

from __future__ import annotations

import weakref
from _thread import get_ident
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.utils import debug_transaction
from django.db.utils import Error
from django.utils.asyncio import async_unsafe

from django_poolkit.backends import ports
from django_poolkit.backends.postgresql.awaiting import AwaitingMixin
from django_poolkit.backends.postgresql.holding import Found
from django_poolkit.backends.postgresql.hosts import GoesElsewhere
from django_poolkit.backends.postgresql.pooling import Twins
from django_poolkit.backends.postgresql.repeating import RepeatingCursor, RepeatingDebugCursor
from django_poolkit.backends.postgresql.rerouting import (
    ReroutingCursor,
    ReroutingDebugCursor,
    cursor_elsewhere,
)
from django_poolkit.pools.postgres import behind, port

_DJANGOS: Final = BaseDatabaseWrapper._cursor  # type: ignore[attr-defined]
_PREPARES: Final = BaseDatabaseWrapper._prepare_cursor  # type: ignore[attr-defined]
# Frames of Django's `ensure_connection()` and `connect()`, which the first statement after a
# `close()` passes: the stack of its lease is to reach as far as that of any other.
_BETWEEN: Final = 4


class _Hand:
    """Pins for as long as it lives: so an interrupt of whoever lets go lets go as well."""


class PooledDatabaseWrapperMixin(AwaitingMixin):
    """Gives a PostgreSQL database wrapper leases from a pool of the process.

    Put it in front of Django's wrapper, or of one derived from it:
    `class DatabaseWrapper(PooledDatabaseWrapperMixin, TheirWrapper)`.
    """

    # -- opening and closing, with or without a lease

    @async_unsafe
    def connect(self) -> None:
        """Open the wrapper, and connect for real; in transaction mode the lease ends at once."""
        if not self._by_statement():
            self._find_out_whether_it_reroutes(self._found())
            super().connect()
            return
        if not self._opened:
            self._open(self._needed())
        self._met = True
        lease = self._lease or self._take(_BETWEEN if self._wanted else 0)
        if not self._wanted:
            self.on_idle(lease)

    def _open(self, found: Found) -> None:
        super()._open(found)
        self._find_out_whether_it_reroutes(found)

    def _find_out_whether_it_reroutes(self, found: Found | None) -> None:
        pool = found.pool(None) if isinstance(found, Twins) else found
        self._repeats = pool is not None and pool.config.retry_reads
        self._reroutes = isinstance(found, Twins) or bool(
            ports.reroutes is not None and ports.reroutes(self.alias)
        )
        if self._reroutes:
            self._steady = None  # it asks, each time, whether its server gives a connection

    def ensure_connection(self) -> None:
        """Make sure that the server can be reached: connect, or probe."""
        if not self._opened and self._raw is not None:
            self._ensure_by_django()
            return
        self._known = None if self._opened else self._found()
        try:
            if not self._by_statement():
                self._ensure_by_django()
            elif self._lease is None or self._lease.released:
                self._ensure_connected()
        finally:
            self._known = None

    @async_unsafe
    def _ensure_connected(self) -> None:
        self._refuse_closed_in_transaction()
        with self.wrap_database_errors:
            self.connect()

    def close(self) -> None:
        """End the lease, if there is one, with its pins, and all that was open."""
        if self._closed_at_once():
            return
        if self._lease is not None and self._raw is None:
            self._raw = self._lease._connection  # an interrupt hit an earlier call half way
        if (last := self._last) is not None:
            self._last = None
            last.pool.end_rest(last)
        super().close()  # through every wrapper class in between, which may keep accounts
        if self._opened:  # but nothing was leased, and so Django saw no connection
            self.connection = None
            if self.in_atomic_block:
                self.closed_in_transaction = True
                self.needs_rollback = True

    def _close(self) -> None:
        try:
            super()._close()
        finally:
            if self._opened and self._lease is None:
                self.connection = None  # also where nothing was leased

    def close_if_unusable_or_obsolete(self) -> None:
        if self.blocks:
            return  # a request that ends in a thread or a task of such a block does not end it
        if self._opened or (self._lease is not None and not self.in_atomic_block):
            # A pool allows no CONN_MAX_AGE: a request's end is the end, and whether the connection
            # is any good is found out by whom it is leased to next.
            self.close()
        else:
            super().close_if_unusable_or_obsolete()

    def ensure_timezone(self) -> bool:
        self._steady = None  # another zone is another pool
        return super().ensure_timezone()

    @contextmanager
    def pinned(self) -> Iterator[None]:
        """Hold one connection for the length of a `with` block, from its first statement on.

        At the end it is reset, also of what no statement showed, and given back, unless it was
        held before. In session mode it is held anyhow.

        Raises django.db.NotSupportedError behind a pooler that lends its sessions by transaction.
        """
        if (pool := self.pool) is not None and pool.statements.loses:
            with self.wrap_database_errors:
                raise behind.refusal("pinned() holds one session", "atomic() holds it there, too")
        if self._by_hand:
            yield
            return
        hand = _Hand()
        self._hand = weakref.ref(hand)
        try:
            if self._lease is not None and self._opened:
                self._lease.mark_dirty("pinned")
            yield
        finally:
            del hand
            lease = self._lease
            if lease is not None and lease.pinned == "pinned":
                lease.pinned = None
                if self._idle(lease):
                    self.close()  # its reset takes away what wrapper classes believe to be set

    # -- what Django does with a connection

    def _cursor(self, name: str | None = None) -> Any:
        if not self._opened and not (self._bridged and self._attach()):
            try:
                if self._raw is None:
                    self._known = self._found()
                if self._raw is not None or not self._by_statement():
                    return super()._cursor(name)  # type: ignore[misc]
            except GoesElsewhere as error:
                return cursor_elsewhere(self, error.alias, name)
            finally:
                self._known = None
        try:
            lease = self._hold()
        except GoesElsewhere as error:
            return cursor_elsewhere(self, error.alias, name)
        try:
            cursor = super()._cursor  # type: ignore[misc]
            if (
                getattr(cursor, "__func__", None) is not _DJANGOS
                or getattr(self._prepare_cursor, "__func__", None) is not _PREPARES  # type: ignore[attr-defined]
                or getattr(self.ensure_connection, "__func__", None) is not _OURS
            ):
                return cursor(name)
            # Every statement passes here: what Django's own looks at has been seen to, and its
            # `_prepare_cursor()` is spelled out.
            try:
                raw = self.create_cursor(name)
                if self._thread_ident != get_ident():  # type: ignore[attr-defined]
                    self.validate_thread_sharing()
                return self.make_debug_cursor(raw) if self.queries_logged else self.make_cursor(raw)
            except Exception:
                with self.wrap_database_errors:
                    raise
        finally:
            if lease.cursors > 1 and not lease.gone and lease.owner == get_ident():
                lease.cursors -= 1  # as below, without its price
                if lease.gone:  # another thread has counted one out meanwhile, and saw this one
                    lease.cursors += 1
                    lease.cursor_closed()
            else:
                lease.cursor_closed()

    def make_cursor(self, cursor: Any) -> Any:
        """Return Django's cursor; one that may go elsewhere where this alias's reads may."""
        if ports.repeats is not None and ports.repeats(self.alias):
            return RepeatingCursor(cursor, self)
        if self._reroutes or self._repeats:
            return ReroutingCursor(cursor, self)
        return super().make_cursor(cursor)

    def make_debug_cursor(self, cursor: Any) -> Any:
        """Return the same where queries are logged."""
        if ports.repeats is not None and ports.repeats(self.alias):
            return RepeatingDebugCursor(cursor, self)
        if self._reroutes or self._repeats:
            return ReroutingDebugCursor(cursor, self)
        return super().make_debug_cursor(cursor)

    def get_autocommit(self) -> bool:
        if not self._by_statement():
            return super().get_autocommit()
        self._ensure_open()
        return self.autocommit

    def set_autocommit(
        self, autocommit: bool, force_begin_transaction_with_broken_autocommit: bool = False
    ) -> None:
        """Begin or end what is not autocommit. Takes no lease, unless `atomic_lease` is eager."""
        if autocommit:
            # After a commit its callbacks run in here: a cancellation waits for them.
            with port.shielded(port.ENDING):
                self._switch_autocommit(True, force_begin_transaction_with_broken_autocommit)
        else:
            self._switch_autocommit(False, force_begin_transaction_with_broken_autocommit)

    def _switch_autocommit(self, autocommit: bool, forced: bool) -> None:
        if not self._by_statement():
            super().set_autocommit(autocommit, forced)
            return
        self.validate_no_atomic_block()
        self._ensure_open()
        lease = self._present()
        self._ensure_open()  # the lease may have been that of a request that is over
        if lease is None and not autocommit and self._eager():
            lease = self._hold()
        try:
            if autocommit:
                self._set_autocommit(True)
            else:
                with debug_transaction(self, "BEGIN"):
                    self._set_autocommit(False)
            self.autocommit = autocommit
        finally:
            try:
                if lease is not None:
                    lease.cursor_closed()  # which ends it before the hooks run
            finally:
                # Also where `verify_state` complains: the transaction has been committed.
                if autocommit and self.autocommit and self.run_commit_hooks_on_set_autocommit_on:
                    self.run_and_clear_commit_hooks()
                    self.run_commit_hooks_on_set_autocommit_on = False

    def _eager(self) -> bool:
        return self.pool is not None and self.pool.config.atomic_lease == "eager"

    def _set_autocommit(self, autocommit: bool) -> None:
        if not self._opened or self._raw is not None:
            super()._set_autocommit(autocommit)

    def _commit(self) -> None:
        if self._opened and self._lease is None:
            with debug_transaction(self, "COMMIT"):
                return  # nothing has been begun
        super()._commit()

    def _rollback(self) -> None:
        if self._opened and self._lease is None:
            with debug_transaction(self, "ROLLBACK"):
                return
        super()._rollback()

    def is_usable(self) -> bool:
        if not self._opened:
            return super().is_usable()
        try:
            lease = self._hold()
        except Error:
            return False
        try:
            return super().is_usable()
        finally:
            lease.cursor_closed()

    @contextmanager
    def temporary_connection(self) -> Iterator[Any]:
        """Provide a cursor, and close afterwards what was not open before."""
        must_close = not self._opened and self._raw is None
        try:
            with self.cursor() as cursor:
                yield cursor
        finally:
            if must_close:
                self.close()


_OURS: Final = PooledDatabaseWrapperMixin.ensure_connection
PooledDatabaseWrapperMixin._connecting = _OURS, PooledDatabaseWrapperMixin.connect

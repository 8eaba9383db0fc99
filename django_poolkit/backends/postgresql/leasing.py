"""The database wrapper's side of a lease: taking it, ending it, and losing it.

In session mode a lease begins with Django's `connect()` and ends with its `close()`, which
Django calls at the end of a request. Everything else here is for those who never call it.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from time import monotonic
from typing import Any
from weakref import WeakSet

from django.db.backends.postgresql.base import TIMESTAMPTZ_OID, ServerSideCursor
from django.db.backends.postgresql.psycopg_any import register_tzloader
from django.utils.functional import cached_property
from psycopg.pq import Format

from django_poolkit.backends import request
from django_poolkit.backends.postgresql.errors import EXHAUSTED, ErrorWrapper
from django_poolkit.backends.postgresql.pooling import PoolChoiceMixin
from django_poolkit.pools.errors import PoolClosed, PoolError
from django_poolkit.pools.lease import Lease
from django_poolkit.pools.postgres.cursor import leased


class PooledDatabaseWrapperMixin(PoolChoiceMixin):
    """Gives a PostgreSQL database wrapper leases from a pool of the process.

    Put it in front of Django's wrapper, or of one derived from it:
    `class DatabaseWrapper(PooledDatabaseWrapperMixin, TheirWrapper)`.
    """

    _lease: Lease | None = None
    _on_net = False

    # -- taking a lease

    def get_connection_params(self) -> dict[str, Any]:
        params: dict[str, Any] = super().get_connection_params()
        params.pop("pool", None)
        return params

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        self._chosen_isolation_level()
        if self.pool is None:
            return super().get_new_connection(conn_params)
        self._lease = lease = self._acquire()
        if not self._on_net:
            self._on_net = True
            _net().wrappers.add(self)
        if (scope := request.current()) is not None:
            scope.wrappers.add(self)
        return lease.connection

    def _acquire(self) -> Lease:
        deadline: float | None = None
        while True:
            pool = self.pool
            assert pool is not None
            try:
                return pool.acquire()
            except PoolClosed:
                # close_pool() swaps the table first, so the next look-up finds another pool.
                # That may be closed as well, where somebody closes without end.
                deadline = deadline or monotonic() + pool.timeout
                if not pool.closed or monotonic() >= deadline:
                    raise
            except EXHAUSTED as error:
                scope = request.current()
                if scope is not None and scope.exhausted is None:
                    scope.exhausted = error
                raise

    def create_cursor(self, name: str | None = None) -> Any:
        options = self.settings_dict["OPTIONS"]
        if name is None or self._lease is None or options.get("server_side_binding") is True:
            return super().create_cursor(name)
        # Django builds this one by its class, past `connection.cursor()`: so it has to be
        # bound to the lease here, and set up as Django's create_cursor() does.
        connection = self.connection
        cursor = leased(ServerSideCursor)(
            connection, name=name, scrollable=False, withhold=connection.autocommit
        )
        loader = connection.adapters.get_loader(TIMESTAMPTZ_OID, Format.TEXT)
        if self.timezone != loader.timezone:
            register_tzloader(self.timezone, cursor)
        return cursor

    @cached_property
    def wrap_database_errors(self) -> ErrorWrapper:
        """Turn the driver's errors into Django's, and the pool's into both."""
        return ErrorWrapper(self)

    # -- ending it

    def _close(self) -> None:
        lease = self._lease
        if lease is None:
            super()._close()  # type: ignore[misc]
            return
        self._lease = None
        self.connection = None
        if not lease.released:
            self._enter_into_scope(lease)
            with self.wrap_database_errors:
                lease.release()

    def _enter_into_scope(self, lease: Lease) -> None:
        scope = request.current()
        if scope is not None and (lease.committed or lease.wrote):
            scope.committed = True

    def may_have_committed(self) -> bool:
        """Return whether the present lease, if any, may have committed something."""
        lease = self._lease
        return lease is not None and (lease.committed or (lease.wrote and not self.in_atomic_block))

    def _commit(self) -> None:
        super()._commit()  # type: ignore[misc]
        if (lease := self._lease) is not None and lease.wrote:
            lease.committed = True

    def _rollback(self) -> None:
        super()._rollback()  # type: ignore[misc]
        if (lease := self._lease) is not None:
            lease.wrote = False

    def end_lease(self) -> None:
        """End the present lease from outside, as at the end of a request. Does not raise.

        To be called when no other thread uses this wrapper. What was begun is rolled back.
        """
        lease = self._lease
        if lease is None:
            return
        self._enter_into_scope(lease)
        self._forget_lease()
        if not lease.released:
            with suppress(PoolError):  # a finalizer may be faster
                lease.release()

    def _forget_lease(self) -> None:
        """Make the wrapper one without a connection: its lease has ended, here or in a fork."""
        self._lease = None
        self.connection = None
        if self.in_atomic_block:
            self.closed_in_transaction = True
            self.needs_rollback = True

    # -- what Django does to a connection that a pool does by itself

    def ensure_timezone(self) -> bool:
        if self._lease is None and self.pool is None:
            return bool(super().ensure_timezone())
        # Settings are part of a pool's key, so another zone is another pool.
        if self.connection is None:
            return False
        return bool(self._configure_timezone(self.connection))  # type: ignore[attr-defined]

    def close_if_health_check_failed(self) -> None:
        # Django calls this as it begins to use a connection, before it looks whether it has one.
        lease = self._lease
        if lease is None:
            super().close_if_health_check_failed()
        elif lease.released:
            self._forget_lease()


class _ThreadNet:
    """Takes back the leases of a thread that ends without closing its connections."""

    def __init__(self) -> None:
        self.wrappers: WeakSet[PooledDatabaseWrapperMixin] = WeakSet()

    def __del__(self) -> None:
        for wrapper in list(self.wrappers):
            lease = wrapper._lease
            # A wrapper shared between threads, as a live test server's, lives on elsewhere.
            if lease is not None and not lease.released and not wrapper.allow_thread_sharing:
                wrapper._forget_lease()
                lease.pool.lost(lease)


_local = threading.local()


def _net() -> _ThreadNet:
    net: _ThreadNet | None = getattr(_local, "net", None)
    if net is None:
        net = _local.net = _ThreadNet()
    return net

"""The database wrapper's side of a lease: taking it, ending it, and losing it.

In session mode a lease begins with Django's `connect()` and ends with its `close()`, which
Django calls at the end of a request. Everything else here is for those who never call it.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import get_ident
from types import FrameType
from typing import Any, Final, cast

from django.db import connections
from django.db.backends.postgresql.base import TIMESTAMPTZ_OID, DatabaseWrapper, ServerSideCursor
from django.db.backends.postgresql.psycopg_any import register_tzloader
from django.utils.functional import cached_property
from psycopg.pq import Format

from django_poolkit.backends import own, ports, purpose, request, request_end
from django_poolkit.backends.postgresql import observing, replaced
from django_poolkit.backends.postgresql.client import DatabaseClient
from django_poolkit.backends.postgresql.errors import ErrorWrapper
from django_poolkit.backends.postgresql.nets import net
from django_poolkit.backends.postgresql.pooling import Handed, Twins
from django_poolkit.backends.postgresql.short import ShortWayMixin
from django_poolkit.backends.request import RequestScope
from django_poolkit.pools.credentials import resolved
from django_poolkit.pools.lease import STACK_DEPTH, Lease
from django_poolkit.pools.observe import Watch
from django_poolkit.pools.postgres import ConnectionPool, port
from django_poolkit.pools.postgres.connection import PoolConnection, no_lease
from django_poolkit.pools.postgres.leased_cursor import leased

_DJANGOS: Final = DatabaseWrapper.create_cursor
# The parameter that says whether a server is a replica.
_STANDBY: Final = b"in_hot_standby"


class LeasingMixin(ShortWayMixin):
    """Takes, ends and loses the leases of a database wrapper."""

    client_class = DatabaseClient

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # No defaults on the class: each statement asks, and CPython 3.12 and 3.13 are slow on what
        # is both.
        self._lease: Lease | None = None
        self._scope: RequestScope | None = None  # in which the present lease was taken
        self._host = None
        self._known = None
        self._search = None
        self._reroutes = False  # whether what fails to be read here may be read elsewhere
        self._repeats = False  # whether it may be read here, on another connection
        self._raw: Any = None
        """psycopg's connection, None where there is none."""
        self._on_net = False
        self._ensuring = False
        self._hand: Callable[[], object | None] = no_lease  # leads to who is in pinned()
        self._watch: Watch | None = None  # of the present lease, where it is observed
        self._bridged = False  # whether it is one call's in the bridge, which ends its leases
        self._kept: Any = None  # by what it goes to the next call, where it is one call's
        self._node: Any = None  # by which calls in the bridge take turns on it
        self.blocks = 0
        """How many blocks of async code it is held by."""
        super().__init__(*args, **kwargs)
        # Copies have settings of their own. Here, too, so that what a middleware of the very first
        # request puts on it is known, when nobody has loaded a function for the bridge yet.
        if connections.settings.get(self.alias) is self.settings_dict and (
            type(port.getcurrent()) is not port.Greenlet
        ):
            own.note(self.alias, self)

    @property
    def _by_hand(self) -> bool:
        return self._hand() is not None

    # -- taking a lease

    def connect(self) -> None:
        """Connect, as Django does, and watch the lease where the pool observes."""
        super().connect()
        lease = self._lease
        if lease is not None and (recorder := lease.pool.statements.recorder) is not None:
            self._watch = observing.watch(self, lease, recorder)
        elif self._watch is not None:
            self._watch = None

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        """Acquire a connection through every wrapper class below this one.

        Django's own code at the bottom calls `pool.getconn()`; what stands between, PostGIS's
        adapters or an instrumented cursor class, sees each connection as it would see it from
        Django's pool.
        """
        connect = super().get_new_connection
        found = self._found() if self._handed is None else None
        if isinstance(found, Twins) or (
            found is not None and (self._search is not None or self._reroutes)
        ):
            given = ConnectionPool._entrust(self._lease_from(found, STACK_DEPTH, 1))
            self._handed = cast(ConnectionPool, Handed(given))
            del given  # the chain has it from here on
            try:
                connection = connect(conn_params)
            finally:
                self._handed = None
        else:
            connection = self._acquired(
                lambda pool: connect(resolved(conn_params) if pool is None else conn_params)
            )
        self._known = None
        if isinstance(connection, PoolConnection) and connection._owned_lease is not None:
            # getconn() left it there: from now on it is the wrapper's.
            lease, connection._owned_lease = connection._owned_lease, None
            lease._connection = connection
            self._take_over(lease)
        return connection

    def _take_over(self, lease: Lease) -> None:
        """Make the wrapper the owner of a lease."""
        self._lease = lease
        lease.alias = self.alias
        if self._thread_sharing_count:  # type: ignore[attr-defined]
            lease.shared = True
        self._join_net()
        self._scope = None
        lease.context = purpose.of_caller()  # it may have rested, and been another work's before
        if (scope := request.current()) is not None:
            self._enter(scope, lease)

    def _join_net(self) -> None:
        """Have what is leased end with the thread that calls this first."""
        if not self._on_net:
            self._on_net = True
            net().wrappers.add(self)

    def _use_here(self) -> None:
        """Have this thread be the one that uses the present lease: who did before is done with it.

        The end of its block then gives it back at once, where another's would leave it adrift.
        """
        if self._lease is not None:
            self._lease.owner = get_ident()

    def _enter(self, scope: RequestScope, lease: Lease) -> None:
        scope.note_use(self)
        # One shared between threads is ended by whoever shares it, one in the bridge by its call.
        if not (self._bridged or self.allow_thread_sharing):
            self._scope = scope
            scope.add(self, lease)
            if scope.over:
                request_end.watch(scope)

    def create_cursor(self, name: str | None = None) -> Any:
        if self._watch is not None:
            self._watch.resumed()
        create, raw = super().create_cursor, self._raw
        if self._lease is None:
            return create(name)
        if name is None:
            if getattr(create, "__func__", None) is not _DJANGOS:
                return create(name)
            # Every statement passes here: Django's own would have it looked once more for an
            # event loop, and twice for who asks for the connection.
            cursor = raw.cursor()
        elif self._binds_on_the_server():
            return create(name)
        else:
            # Django builds this one by its class, past `connection.cursor()`: so it has to be
            # bound to the lease here.
            cursor = leased(ServerSideCursor)(
                raw, name=name, scrollable=False, withhold=raw.autocommit
            )
        loader = raw._adapters.get_loader(TIMESTAMPTZ_OID, Format.TEXT)
        if self.timezone != loader.timezone:
            register_tzloader(self.timezone, cursor)
        return cursor

    def _binds_on_the_server(self) -> bool:
        return self.settings_dict["OPTIONS"].get("server_side_binding") is True

    @cached_property
    def wrap_database_errors(self) -> ErrorWrapper:
        """Turn the driver's errors into Django's, and the pool's into both."""
        return ErrorWrapper(self)

    def _note_refused_write(self) -> None:
        """Take note that a transaction may not write, where that is since the server is a replica.

        That is what PostgreSQL reports unasked, since 14.
        """
        if (lease := self._lease) is None or ports.note_standby is None:
            return
        connection: PoolConnection | None = lease.connection
        if connection is not None and connection.pgconn.parameter_status(_STANDBY) == b"on":
            ports.note_standby(self.alias)

    def _note_access(self, frame: FrameType) -> None:
        """Take note that somebody takes hold of the connection of an observed lease."""
        if (lease := self._lease) is not None and not lease.released:
            lease.pool.statements.raw_access(lease, frame)

    # -- ending it

    def _close(self) -> None:
        lease = self._lease
        if lease is None:
            super()._close()  # type: ignore[misc]
            return
        scope = self._detach()
        self.connection = None  # second: an interrupt in between must not hide the lease
        self._end(lease, scope)

    def _give_back(self, lease: Lease) -> None:
        """End the present lease."""
        self._end(lease, self._detach())

    def _detach(self) -> RequestScope | None:
        """Make the wrapper one without a lease; return the request in which it was taken."""
        self._lease = None
        scope, self._scope = self._scope, None
        return scope

    def _end(self, lease: Lease, scope: RequestScope | None) -> None:
        """End a lease that has been detached, unless somebody else is about to."""
        if (scope is None or scope.claim(lease)) and not lease.released:
            self._note_end(lease, scope)
            try:
                lease.release()
            except Exception:
                with self.wrap_database_errors:
                    raise

    @staticmethod
    def _note_end(lease: Lease, scope: RequestScope | None) -> None:
        if (scope := scope or request.current()) is not None:
            scope.note_end(lease)

    def holds(self, lease: Lease) -> bool:
        """Return whether this is the wrapper's present lease."""
        return self._lease is lease

    def may_have_committed(self) -> bool:
        """Return whether the present lease, if any, may have committed something."""
        lease = self._lease
        return lease is not None and (lease.committed or (lease.wrote and not self.in_atomic_block))

    def _commit(self) -> None:
        if (lease := self._lease) is not None and lease.wrote and replaced.is_old(lease):
            with self.wrap_database_errors:
                replaced.refuse(lease)
        super()._commit()  # type: ignore[misc]
        if (lease := self._lease) is not None and lease.wrote:
            lease.committed, lease.wrote = True, False

    def _set_autocommit(self, autocommit: bool) -> None:
        super()._set_autocommit(autocommit)  # type: ignore[misc]
        if self._watch is not None and self._lease is not None:
            self._watch.on_idle(self._lease)

    def _rollback(self) -> None:
        super()._rollback()  # type: ignore[misc]
        if (lease := self._lease) is not None:
            lease.wrote = False

    def _forget_lease(self) -> None:
        """Make the wrapper one without a connection: its lease has ended, here or in a fork."""
        if self._scope is not None and self._lease is not None and self._lease.released:
            self._scope.claim(self._lease)
        self._lease = self._scope = None
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
            self.close()  # for wrapper classes in between, that keep accounts of a connection
        elif (here := request.current()) is not (scope := self._scope) or (scope and scope.over):
            self._cross(lease, here)
        if (lease := self._lease) is not None and (self._host is not None or lease.pool.fenced):
            self._leave(lease)

    def _leave(self, lease: Lease) -> None:
        """Give back a lease of session mode from a server that will not do any more."""
        if self._opened or self.in_atomic_block or not self.autocommit or self._by_hand:
            return
        host, keeps = self._host, ports.keeps_host
        if replaced.is_old(lease) or (host and keeps and not keeps(self.alias, host)):
            self.close()

    def _cross(self, lease: Lease, here: RequestScope | None) -> None:
        """Use a lease that another request took, or one of a request that is over."""
        if here is not None:
            here.note_use(self)
        scope = self._scope
        if scope is None or not scope.over:
            return
        if not request_end.goes_on(scope, lease):
            self._forget_lease()
        elif here is not scope and not self.in_atomic_block:
            self.close()

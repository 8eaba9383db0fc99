"""The database wrapper's side of a lease: taking it, ending it, and losing it.

In session mode a lease begins with Django's `connect()` and ends with its `close()`, which
Django calls at the end of a request. Everything else here is for those who never call it.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import suppress
from copy import deepcopy
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from django.core.exceptions import ImproperlyConfigured
from django.db.backends.base.base import NO_DB_ALIAS
from django.db.backends.postgresql.psycopg_any import IsolationLevel
from django.utils.functional import cached_property

from django_poolkit import registry
from django_poolkit.backends import origin, request
from django_poolkit.backends.postgresql.errors import EXHAUSTED, ErrorWrapper
from django_poolkit.conf.databases import pool_config
from django_poolkit.pools.config import SERVER_GUARDS, PoolConfig
from django_poolkit.pools.errors import PoolClosed, PoolError
from django_poolkit.pools.lease import Lease
from django_poolkit.pools.postgres import ConnectionPool, probe
from django_poolkit.pools.postgres.connect import SessionDefaults

if TYPE_CHECKING:
    from django.db.backends.postgresql.base import DatabaseWrapper as _Base
else:
    _Base = object

# How often an acquire may meet a pool that was closed between its look-up and its use.
_RETRIES = 3


class PooledDatabaseWrapperMixin(_Base):
    """Gives a PostgreSQL database wrapper leases from a pool of the process.

    Put it in front of Django's wrapper, or of one derived from it:
    `class DatabaseWrapper(PooledDatabaseWrapperMixin, TheirWrapper)`.
    """

    _lease: Lease | None = None
    _seen: tuple[Any, ...] | None = None
    _on_net = False

    # -- the pool

    @property
    def pool(self) -> ConnectionPool | None:
        """The pool of the present settings, None where they ask for none."""
        if self.alias == NO_DB_ALIAS:
            return None
        # Settings are mutable, and tests do change them; to compare is cheaper than to freeze.
        now = (self.settings_dict, self.timezone_name)
        if self._seen is not None and self._seen[0] == now:
            pool: ConnectionPool | None = self._seen[1]
            if pool is None or not (pool.closed and pool._opened):
                return pool
        config = pool_config(self.alias, self.settings_dict)
        pool = None if config is None else self._find_pool(config)
        self._seen = (deepcopy_settings(self.settings_dict), self.timezone_name), pool
        return pool

    def close_pool(self) -> None:
        """Close every pool to this database, as Django's test runner and Celery ask for.

        The next acquire opens a new one; leases end undisturbed.
        """
        registry.pools.close_place(self._place())

    def _find_pool(self, config: PoolConfig) -> ConnectionPool:
        key = registry.content_key(
            (
                type(self).__module__,
                self.settings_dict | {"TEST": None, "CONN_HEALTH_CHECKS": None},
                self.timezone_name,
                bool(self.timezone),
            )
        )
        make = partial(self._make_pool, config)
        return registry.pools.get(key, make, alias=self.alias, place=self._place())

    def _place(self) -> tuple[str, str, str]:
        settings = self.settings_dict
        return settings["NAME"] or "", settings["HOST"] or "", str(settings["PORT"] or "")

    def _make_pool(self, config: PoolConfig, name: str) -> ConnectionPool:
        params = self.get_connection_params()
        params["autocommit"] = True
        if config.prepare:
            params["prepare_threshold"] = 5
        for key, value in (config.guards or {}).items():
            if key not in SERVER_GUARDS:
                params[key] = value
        pool = ConnectionPool(
            kwargs=_with_password(params, self.settings_dict["PASSWORD"]),
            config=_named(config, name, self._chosen_isolation_level()),
            defaults=self._session_defaults(config),
        )
        if self.settings_dict["CONN_HEALTH_CHECKS"] and pool._check is None:
            # The probe at each acquire is the health check; who asks the pool finds it named.
            pool._check = probe.looked_at
        pool.statements.foreign = origin.foreign_statement(config.trusted_modules)
        return pool

    def _session_defaults(self, config: PoolConfig) -> SessionDefaults:
        path = f"DATABASES[{self.alias!r}]"
        values, origins = {}, {}
        if self.timezone_name:
            values["TimeZone"] = self.timezone_name
            origins["TimeZone"] = f"{path}['TIME_ZONE'] (or TIME_ZONE)"
        if role := self.settings_dict["OPTIONS"].get("assume_role"):
            values["role"] = role
            origins["role"] = f"{path}['OPTIONS']['assume_role']"
        for name, value in (config.guards or {}).items():
            if name in SERVER_GUARDS:
                values[name] = str(value)
                origins[name] = f"{path}['OPTIONS']['pool'][{name!r}]"
        return SessionDefaults(values, origins)

    def _chosen_isolation_level(self) -> IsolationLevel | None:
        try:
            value = self.settings_dict["OPTIONS"]["isolation_level"]
        except KeyError:
            self.isolation_level = IsolationLevel.READ_COMMITTED
            return None
        try:
            self.isolation_level = IsolationLevel(value)
        except ValueError:
            raise ImproperlyConfigured(
                f"Invalid transaction isolation level {value} "
                "specified. Use one of the psycopg.IsolationLevel values."
            ) from None
        return self.isolation_level

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
        for _ in range(_RETRIES):
            pool = self.pool
            assert pool is not None
            try:
                return pool.acquire()
            except PoolClosed:
                # close_pool() swaps the table first, so the next look-up finds another.
                if not pool.closed:
                    raise
            except EXHAUSTED as error:
                scope = request.current()
                if scope is not None and scope.exhausted is None:
                    scope.exhausted = error
                raise
        assert pool is not None
        return pool.acquire()

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


def deepcopy_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Copy an entry of `DATABASES` so far that no change to it reaches the copy."""
    copied = dict(settings)
    options = dict(settings["OPTIONS"])
    if isinstance(options.get("pool"), Mapping):
        options["pool"] = {**options["pool"]}
    copied["OPTIONS"] = options
    copied["TEST"] = deepcopy(settings.get("TEST"))
    return copied


def _with_password(params: dict[str, Any], password: object) -> Any:
    """Return connect parameters, as a function where the password is one."""
    if not callable(password):
        return params
    params = {key: value for key, value in params.items() if key != "password"}
    return lambda: {**params, "password": password()}


def _named(config: PoolConfig, name: str, level: IsolationLevel | None) -> PoolConfig:
    from dataclasses import replace

    if level is None:
        return replace(config, name=name)
    return replace(config, name=name, configure=partial(_configure, level, config.configure))


def _configure(level: IsolationLevel, then: Any, connection: Any) -> None:
    connection.isolation_level = level
    if then is not None:
        then(connection)

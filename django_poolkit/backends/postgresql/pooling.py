"""The database wrapper's side of a pool: which one its present settings ask for."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from django.core.exceptions import ImproperlyConfigured
from django.db.backends.base.base import NO_DB_ALIAS
from django.db.backends.postgresql.psycopg_any import IsolationLevel

from django_poolkit import registry
from django_poolkit.backends import origin
from django_poolkit.conf.control import control_config
from django_poolkit.conf.databases import pool_config
from django_poolkit.pools.config import PoolConfig
from django_poolkit.pools.postgres import ConnectionPool, probe
from django_poolkit.pools.postgres.connect import SessionDefaults

if TYPE_CHECKING:
    from django.db.backends.postgresql.base import DatabaseWrapper as _Base
else:
    _Base = object


# Entries of a database's settings that make no other connections of it. SCHEMA is where
# django-tenants notes the tenant of the moment.
_NOT_OF_THE_CONNECTION = dict.fromkeys(("TEST", "CONN_HEALTH_CHECKS", "SCHEMA"))


class PoolChoiceMixin(_Base):
    """Finds or makes the pool of a database wrapper."""

    _seen: tuple[Any, ...] | None = None
    # Stands for the pool while a connection that is leased already goes through Django's code.
    _handed: ConnectionPool | None = None

    @property
    def pool(self) -> ConnectionPool | None:
        """The pool of the present settings, None where they ask for none."""
        if self.alias == NO_DB_ALIAS:
            return None
        if self._handed is not None:
            return self._handed
        # Settings are mutable, and tests do change them; to compare is cheaper than to freeze.
        now = (self.settings_dict, self.timezone_name)
        if self._seen is not None and self._seen[0] == now:
            pool: ConnectionPool | None = self._seen[1]
            if pool is None or not pool.ended:
                return pool
        config = pool_config(self.alias, self.settings_dict)
        pool = None if config is None else self._find_pool(config)
        self._seen = (_copy_settings(self.settings_dict), self.timezone_name), pool
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
                self.settings_dict | _NOT_OF_THE_CONNECTION,
                self.timezone_name,
                bool(self.timezone),
            )
        )
        make = partial(self._make_pool, config)
        return registry.pools.get(
            key, make, alias=self.alias, place=self._place(), name=config.name
        )

    def _place(self) -> tuple[str, str, str]:
        settings = self.settings_dict
        return settings["NAME"] or "", settings["HOST"] or "", str(settings["PORT"] or "")

    def _make_pool(self, config: PoolConfig, name: str) -> ConnectionPool:
        params = self.get_connection_params()
        params["autocommit"] = True
        pool = ConnectionPool(
            kwargs=_with_password(params, self.settings_dict["PASSWORD"]),
            config=_named(config, name, self._chosen_isolation_level()),
            defaults=self._session_defaults(config),
        )
        pool.service = control_config().service
        if self.settings_dict["CONN_HEALTH_CHECKS"] and pool._check is None:
            # The probe at each acquire is the health check; who asks the pool finds it named.
            pool._check = probe.looked_at
        pool.statements.foreign = origin.foreign_statement(config.trusted_modules)
        pool.statements.outside = origin.outsider(config.trusted_modules)
        if pool.statements.recorder is not None:
            pool.statements.recorder.site = origin.call_site(config.trusted_modules)
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
        for name in config.guards or {}:
            origins[name] = f"{path}['OPTIONS']['pool'][{name!r}]"
        return SessionDefaults(values, origins)

    def _chosen_isolation_level(self) -> IsolationLevel | None:
        if "isolation_level" not in self.settings_dict["OPTIONS"]:
            return None
        value = self.settings_dict["OPTIONS"]["isolation_level"]
        try:
            return IsolationLevel(value)
        except ValueError:
            raise ImproperlyConfigured(
                f"Invalid transaction isolation level {value} "
                "specified. Use one of the psycopg.IsolationLevel values."
            ) from None


def _copy_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
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
    if level is None:
        return replace(config, name=name)
    return replace(config, name=name, configure=partial(_configure, level, config.configure))


def _configure(level: IsolationLevel, then: Any, connection: Any) -> None:
    connection.isolation_level = level
    if then is not None:
        then(connection)

"""The database wrapper's side of a pool: which one its present settings ask for.

An alias with several hosts has a *twin* for each of them: a wrapper of the same kind, that leads
there alone, opens nothing, and knows its pool as any other wrapper does.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

from django.core.exceptions import ImproperlyConfigured
from django.db.backends.base.base import NO_DB_ALIAS
from django.db.backends.postgresql.psycopg_any import IsolationLevel

from django_poolkit import registry
from django_poolkit.backends import labels, origin, ports, purpose
from django_poolkit.backends.postgresql import telling
from django_poolkit.backends.postgresql.binding import follow_the_pool
from django_poolkit.conf.control import control_config
from django_poolkit.conf.databases import (
    copy_settings,
    credentials_of,
    place_of_credentials,
    pool_config,
)
from django_poolkit.conf.hosts import Host, at_host, hosts_of
from django_poolkit.pools.config import PoolConfig
from django_poolkit.pools.credentials import function_of
from django_poolkit.pools.postgres import ConnectionPool, probe
from django_poolkit.pools.postgres.connect import SessionDefaults
from django_poolkit.pools.postgres.connection import PoolConnection

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
    _known: ConnectionPool | Twins | None
    """What the settings ask for, on the way from the first look at them to the acquire."""
    _host: str | None
    """The key of the host that was chosen last, of several; None where there is one."""
    _twin_of: Host | None = None

    @property
    def pool(self) -> ConnectionPool | None:
        """The pool of the present settings, None where they ask for none.

        Of several hosts, that of the one chosen last; of the first, where none has been.
        """
        if self._handed is not None:
            return self._handed
        found = self._found()
        return found if not isinstance(found, Twins) else found.pool(self._host)

    @property
    def host_pools(self) -> Mapping[str, ConnectionPool] | None:
        """The pools of all hosts by their full names, `alias/key`; None for an alias with one."""
        found = self._found()
        if not isinstance(found, Twins):
            return None
        return {f"{self.alias}/{key}": found.pool(key) for key in found.weights}

    def at_hosts(self) -> dict[str, Self]:
        """Return a wrapper for each server that the alias leads to, by its full name.

        Itself, where there is only one. The others are for asking them for parameters, and not
        to be connected.
        """
        # Without hosts nothing else is looked at: this makes no pool.
        several = hosts_of(self.alias, self.settings_dict) is not None
        found = self._found() if several else None
        if not isinstance(found, Twins):
            return {self.alias: self}
        return {f"{self.alias}/{key}": found.wrappers[key] for key in found.weights}

    def _found(self) -> ConnectionPool | Twins | None:
        if self._known is not None:
            return self._known
        if self.alias == NO_DB_ALIAS:
            return None
        # Settings are mutable, and tests do change them; to compare is cheaper than to freeze.
        now = (self.settings_dict, self.timezone_name)
        if self._seen is not None and self._seen[0] == now:
            found: ConnectionPool | Twins | None = self._seen[1]
            if not isinstance(found, ConnectionPool) or not found.ended:
                return found
        follow_the_pool(self.settings_dict)
        config = pool_config(self.alias, self.settings_dict)
        hosts = hosts_of(self.alias, self.settings_dict)
        if config is None:
            found = None
        elif hosts is None:
            found = self._find_pool(config)
        else:
            found = Twins({key: self._twin(host) for key, host in hosts.items()}, config.timeout)
        self._seen = (copy_settings(self.settings_dict), self.timezone_name), found
        return found

    def _only_pool(self) -> ConnectionPool | None:
        """Return the pool, None where there is none, or one for each of several hosts."""
        found = self._found()
        return found if isinstance(found, ConnectionPool) else None

    def _twin(self, host: Host) -> Self:
        twin = type(self)(copy_settings(at_host(self.settings_dict, host)), alias=self.alias)
        twin._twin_of = host
        return twin

    def get_connection_params(self) -> dict[str, Any]:
        """Return what to connect with beside all pools; of several hosts, to the first."""
        hosts = hosts_of(self.alias, self.settings_dict)
        params: dict[str, Any] = super().get_connection_params()
        params.pop("pool", None)
        if hosts is not None:
            del params["hosts"]
            names = {"HOST": "host", "PORT": "port", "USER": "user", "PASSWORD": "password"}
            first = next(iter(hosts.values())).settings
            params.update({names[key]: value for key, value in first.items() if value})
        if (source := credentials_of(self.settings_dict)) is not None:
            params["password"] = function_of(source)
        return params

    def close_pool(self) -> None:
        """Close every pool to this database, as Django's test runner and Celery ask for.

        The next acquire opens a new one; leases end undisturbed. Where Celery asks before and
        after each task, which is for pools that a fork would break, nothing is closed.
        """
        if origin.between_tasks():
            return
        for wrapper in self.at_hosts().values():
            registry.pools.close_place(wrapper._place())
            registry.asyncpg.close_place(wrapper._place())

    def _find_pool(self, config: PoolConfig) -> ConnectionPool:
        host, name = self._twin_of, config.name
        name = name if host is None else f"{name or self.alias}/{host.key}"
        return registry.pools.get(
            self._pool_key(),
            partial(self._make_pool, config),
            alias=self.alias if host is None else f"{self.alias}/{host.key}",
            also=() if host is None else (self.alias,),
            place=self._place(),
            name=name,
        )

    def _pool_key(self) -> Hashable:
        """Return what two aliases have in common that share one pool."""
        return registry.content_key(
            (
                type(self).__module__,
                self.settings_dict | _NOT_OF_THE_CONNECTION,
                self.timezone_name,
                bool(self.timezone),
            )
        )

    def _place(self) -> tuple[str, str, str]:
        settings = self.settings_dict
        return settings["NAME"] or "", settings["HOST"] or "", str(settings["PORT"] or "")

    def _make_pool(self, config: PoolConfig, name: str) -> ConnectionPool:
        params = self.get_connection_params()
        params["autocommit"] = True
        if config.credentials is not None:
            del params["password"]  # which is the function
        pool = ConnectionPool(
            kwargs=params,
            config=_named(config, name, self._chosen_isolation_level()),
            defaults=self._session_defaults(config),
        )
        pool.service = control_config().service
        if self.settings_dict["CONN_HEALTH_CHECKS"] and pool._check is None:
            # The probe at each acquire is the health check; who asks the pool finds it named.
            pool._check = probe.looked_at
        pool.label_leases(labels.of_caller)
        pool.context = purpose.of_caller
        pool.statements.foreign = origin.foreign_statement(config.trusted_modules)
        pool.statements.outside = origin.outsider(config.trusted_modules)
        pool.statements.writing = telling.of_write
        pool.statements.locking = telling.of_lock
        pool.statements.acting = telling.of_act
        pool.statements.alone = telling.of_lone_write
        pool.statements.commits = telling.Commits()
        for counter in (pool.statements.recorder, pool.statements.proxied):
            if counter is not None:
                counter.site = origin.call_site(config.trusted_modules)
        if ports.note_pool is not None:
            ports.note_pool(self.alias, pool)
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
        origins["pooler"] = f"{path}['OPTIONS']['pool']['pooler']"
        origins["credentials"] = path + place_of_credentials(self.settings_dict)
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


class Twins:
    """The hosts of an alias."""

    def __init__(self, wrappers: Mapping[str, PoolChoiceMixin], timeout: float) -> None:
        self.wrappers: Mapping[str, Any] = wrappers
        self.timeout = timeout
        """Seconds that an acquire may take."""
        self.weights: Mapping[str, float] = MappingProxyType(
            {key: twin._twin_of.weight for key, twin in wrappers.items() if twin._twin_of}
        )

    def pool(self, key: str | None) -> ConnectionPool:
        """Return the pool of one host, of the first where there is none of that key."""
        if key is None or key not in self.wrappers:
            key = next(iter(self.wrappers))
        twin = self.wrappers[key]
        pool: ConnectionPool = twin.pool
        return pool


class Handed:
    """Stands for a pool that gives out one connection, to Django's `get_new_connection()`."""

    def __init__(self, connection: PoolConnection) -> None:
        self._connection = connection

    def open(self) -> None:
        """Do nothing: what it gives is there already."""

    def getconn(self) -> PoolConnection:
        """Return the connection."""
        return self._connection


def _named(config: PoolConfig, name: str, level: IsolationLevel | None) -> PoolConfig:
    if level is None:
        return replace(config, name=name)
    return replace(config, name=name, configure=partial(_configure, level, config.configure))


def _configure(level: IsolationLevel, then: Any, connection: Any) -> None:
    connection.isolation_level = level
    if then is not None:
        then(connection)

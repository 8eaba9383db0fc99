"""The asyncpg pools by alias: made when they are first asked for, from the present settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.db import connections

from django_poolkit import registry
from django_poolkit.backends import purpose
from django_poolkit.backends.asyncpg.parameters import connect_parameters, session_settings
from django_poolkit.conf.asyncpg import asyncpg_aliases, asyncpg_config, asyncpg_options
from django_poolkit.conf.control import control_config
from django_poolkit.conf.databases import copy_settings
from django_poolkit.pools.postgres import naming

if TYPE_CHECKING:
    from django_poolkit.pools.asyncpg.pool import AsyncpgPool

PREFIX = "asyncpg:"
"""In front of the alias, it is the name of a pool: that of psycopg's connections has the alias."""
_NOT_OF_THE_CONNECTION = dict.fromkeys(("TEST", "CONN_HEALTH_CHECKS", "SCHEMA"))


class AsyncpgPools(Mapping[str, "AsyncpgPool"]):
    """The pools of asyncpg connections: `asyncpg_pools["default"].lease()`.

    Every PostgreSQL alias of `DATABASES` can have one; iterating gives those that are named in
    `POOLKIT["ASYNCPG"]`. An alias with several hosts has a pool for each: `"replica/1"`. Raises
    KeyError for an alias that does not exist, has several pools or is no PostgreSQL;
    ImproperlyConfigured for settings that cannot be honoured or where asyncpg is missing; and
    PoolClosed once the process is shutting down.
    """

    def __init__(self) -> None:
        # By name, the settings it was found by. A race finds the same pool twice.
        self._seen: dict[str, tuple[Any, Any, AsyncpgPool]] = {}

    def __getitem__(self, name: str) -> AsyncpgPool:
        there = connections.settings
        alias = name if name in there else name.rpartition("/")[0]
        if alias not in there:
            raise KeyError(f"DATABASES has no alias {name!r}")
        options = asyncpg_options(alias)
        seen = self._seen.get(name)
        if (
            seen is not None
            and not seen[2].ended
            and seen[0] == there[alias]
            and seen[1] == options
        ):
            return seen[2]
        pool = _find(name, alias)
        self._seen[name] = copy_settings(there[alias]), dict(options), pool
        return pool

    def __iter__(self) -> Iterator[str]:
        for alias in asyncpg_aliases():
            yield from _wrappers(connections[alias])

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def forget(self) -> None:
        """Look at the settings anew."""
        self._seen.clear()


asyncpg_pools = AsyncpgPools()


def require() -> None:
    """Raise ImproperlyConfigured where there is no asyncpg that fits."""
    needed = "asyncpg_pools needs asyncpg 0.32: pip install django-poolkit[asyncpg]"
    try:
        from django_poolkit.pools.asyncpg import pool  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != "asyncpg":
            raise
        raise ImproperlyConfigured(needed) from error
    except ImportError as error:
        raise ImproperlyConfigured(f"{needed}. {error}") from error


def _wrappers(wrapper: Any) -> dict[str, Any]:
    at_hosts = getattr(wrapper, "at_hosts", None)
    return {wrapper.alias: wrapper} if at_hosts is None else at_hosts()


def _find(name: str, alias: str) -> AsyncpgPool:
    require()
    wrapper: Any = connections[alias]
    if wrapper.vendor != "postgresql":
        raise KeyError(
            f"DATABASES[{alias!r}] is no PostgreSQL: its ENGINE is "
            f"{wrapper.settings_dict['ENGINE']!r}"
        )
    found = _wrappers(wrapper)
    if name not in found:
        several = ", ".join(map(repr, found))
        raise KeyError(
            f"DATABASES[{alias!r}] leads to several hosts, each of which has a pool of its own: "
            f"{several}"
            if name == alias
            else f"DATABASES[{alias!r}] has no host {name!r}; there are: {several}"
        )
    target = found[name]
    settings = target.settings_dict
    # Also what the options say: who changes them gets another pool.
    content = (settings | _NOT_OF_THE_CONNECTION, target.timezone_name, bool(target.timezone))
    return registry.asyncpg.get(
        registry.content_key((*content, asyncpg_options(alias))),
        partial(_make, target),
        alias=name,
        also=() if name == alias else (alias,),
        place=(settings["NAME"] or "", settings["HOST"] or "", str(settings["PORT"] or "")),
        name=f"{PREFIX}{name}",
    )


def _make(wrapper: Any, name: str) -> AsyncpgPool:
    from django_poolkit.pools.asyncpg.connect import Target
    from django_poolkit.pools.asyncpg.pool import AsyncpgPool

    params = {**wrapper.get_connection_params()}
    if callable(wrapper.settings_dict["PASSWORD"]):
        params["password"] = wrapper.settings_dict["PASSWORD"]
    connect, settings, sockets = connect_parameters(wrapper.alias, params)
    service = control_config().service
    target = Target(
        connect=connect,
        settings={**settings, **session_settings(wrapper)},
        sockets=sockets,
        zone=wrapper.timezone,
        naive_zone=_zone_of(wrapper),
        application_name=partial(naming.application_name, service),
    )
    pool = AsyncpgPool(target=target, config=asyncpg_config(wrapper.alias), name=name)
    pool.context = purpose.of_caller
    return pool


def _zone_of(wrapper: Any) -> Any:
    """Return the zone of naive times: that of the connection, where Django makes them naive."""
    from zoneinfo import ZoneInfo

    return None if wrapper.timezone is not None else ZoneInfo(wrapper.timezone_name)


def _settings_changed(*, setting: str, **kwargs: Any) -> None:
    if setting in ("POOLKIT", "DATABASES", "TIME_ZONE", "USE_TZ"):  # in a test
        asyncpg_pools.forget()
        if setting == "POOLKIT":
            registry.asyncpg.close_all(1.0)


setting_changed.connect(_settings_changed)

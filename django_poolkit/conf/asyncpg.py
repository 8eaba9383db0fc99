"""`POOLKIT["ASYNCPG"]`: which databases have a pool of asyncpg connections, and how it behaves.

Keys in capitals are ours, those in small letters are asyncpg's own. Where the server is, and who
one is there, stands in `DATABASES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from django_poolkit.conf.poolkit import mapping, refuse_unknown, section
from django_poolkit.pools.asyncpg.config import AsyncpgConfig
from django_poolkit.pools.errors import PoolConfigError


def asyncpg_aliases() -> tuple[str, ...]:
    """Return the aliases that are named there, in that order.

    Raises ImproperlyConfigured for one that is not in `DATABASES`.
    """
    named = section("ASYNCPG", None)
    refuse_unknown(named, list(settings.DATABASES), "POOLKIT['ASYNCPG']")
    return tuple(named)


def asyncpg_options(alias: str) -> Mapping[str, Any]:
    """Return what the user wrote for one alias; empty where nothing."""
    return mapping(section("ASYNCPG", None).get(alias, {}), path_of(alias))


def asyncpg_config(alias: str) -> AsyncpgConfig:
    """Return how the pool of one alias behaves: by the defaults, where it is not named.

    Raises ImproperlyConfigured with the path of the first value that cannot be honoured.
    """
    try:
        return AsyncpgConfig.from_options(asyncpg_options(alias), path=path_of(alias))
    except PoolConfigError as error:
        raise ImproperlyConfigured(str(error)) from error


def verify_asyncpg() -> None:
    """Check all of `POOLKIT["ASYNCPG"]`. Opens nothing, and needs no asyncpg.

    Raises ImproperlyConfigured for the first value that cannot be honoured.
    """
    for alias in asyncpg_aliases():
        asyncpg_config(alias)


def path_of(alias: str) -> str:
    """Return where in the settings the options of an alias are."""
    return f"POOLKIT['ASYNCPG'][{alias!r}]"

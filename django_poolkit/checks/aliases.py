"""The aliases of `DATABASES` that are the kit's, as the checks look at them.

Those of other engines are nobody's business here, and one whose settings cannot be read is spoken
of once, by `django_poolkit.checks.unread`.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db import connections

from django_poolkit.backends.postgresql.base import PooledDatabaseWrapperMixin
from django_poolkit.conf.asyncpg import asyncpg_aliases, asyncpg_config
from django_poolkit.conf.databases import pool_config
from django_poolkit.conf.http import HttpConfig, http_config, http_names
from django_poolkit.conf.lifespan import LifespanConfig, lifespan_config
from django_poolkit.pools.asyncpg.config import AsyncpgConfig
from django_poolkit.pools.config import PoolConfig
from django_poolkit.pools.presets import PRESETS


@dataclass(frozen=True, slots=True, kw_only=True)
class Alias:
    """One alias whose engine is ours, or made with our mixin."""

    name: str
    settings: Mapping[str, Any] = field(repr=False)
    """Its entry in `DATABASES`, with Django's defaults. May hold a password."""
    pool: PoolConfig | None
    """None where it is not pooled."""
    wrapper: Any = field(repr=False)
    """Its database wrapper in the calling thread."""

    @property
    def options(self) -> Mapping[str, Any]:
        """Its `OPTIONS`."""
        options: Mapping[str, Any] = self.settings["OPTIONS"]
        return options

    @property
    def is_mirror(self) -> bool:
        """Whether it is another alias in tests, so that only a site has both."""
        return bool((self.settings.get("TEST") or {}).get("MIRROR"))

    def pool_key(self) -> Hashable:
        """Return what it has in common with an alias that shares its pool."""
        key: Hashable = self.wrapper._pool_key()
        return key

    def path(self, *keys: str) -> str:
        """Return where in the settings something of it is."""
        return f"DATABASES[{self.name!r}]" + "".join(f"[{key!r}]" for key in keys)

    def of_pool(self, key: str) -> str:
        """Return where in the settings an option of its pool is, and whether a preset gave it."""
        path, own = self.path("OPTIONS", "pool", key), self.options.get("pool")
        if isinstance(own, Mapping) and key not in own:
            preset = own.get("preset")
            if preset is not None and key in PRESETS[preset]:
                return f"{path} (of its preset {preset!r})"
        return path


def entries() -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield every alias with its entry in `DATABASES`, whatever its engine."""
    for name in connections:
        yield name, connections.settings[name]


def wrappers() -> Iterator[tuple[str, Any]]:
    """Yield the names of our aliases, each with its database wrapper. Connects nothing."""
    for name in connections:
        try:
            wrapper = connections[name]
        except (ImproperlyConfigured, ImportError):
            continue  # another engine's trouble, of which Django speaks
        if isinstance(wrapper, PooledDatabaseWrapperMixin):
            yield name, wrapper


def aliases() -> Iterator[Alias]:
    """Yield our aliases whose settings can be read."""
    for name, wrapper in wrappers():
        settings = wrapper.settings_dict
        try:
            pool = pool_config(name, settings)
        except ImproperlyConfigured:
            continue
        yield Alias(name=name, settings=settings, pool=pool, wrapper=wrapper)


def pooled() -> Iterator[tuple[Alias, PoolConfig]]:
    """Yield our aliases that are pooled, each with its pool's options."""
    for alias in aliases():
        if alias.pool is not None:
            yield alias, alias.pool


def asyncpg_pools() -> Iterator[tuple[str, AsyncpgConfig]]:
    """Yield the aliases in `POOLKIT["ASYNCPG"]` that can be read, with their pools' options."""
    try:
        names = asyncpg_aliases()
    except ImproperlyConfigured:
        return
    for name in names:
        try:
            yield name, asyncpg_config(name)
        except ImproperlyConfigured:
            continue


def client_sessions() -> Iterator[HttpConfig]:
    """Yield what `POOLKIT["HTTP"]` has, as far as it can be read."""
    try:
        names = http_names()
    except ImproperlyConfigured:
        return
    for name in names:
        try:
            yield http_config(name)
        except ImproperlyConfigured:
            continue


def lifespan() -> LifespanConfig | None:
    """Return `POOLKIT["LIFESPAN"]`, None where it cannot be read."""
    try:
        return lifespan_config()
    except ImproperlyConfigured:
        return None

"""Settings that cannot be honoured: all of them at once, where a start names the first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from django.core.checks import CheckMessage, Error
from django.core.exceptions import ImproperlyConfigured

from django_poolkit.checks.aliases import entries, wrappers
from django_poolkit.conf.async_orm import async_orm_config
from django_poolkit.conf.asyncpg import asyncpg_aliases, asyncpg_config
from django_poolkit.conf.control import control_config
from django_poolkit.conf.databases import pool_config, verify_database
from django_poolkit.conf.hosts import hosts_of
from django_poolkit.conf.http import http_names
from django_poolkit.conf.lifespan import lifespan_config
from django_poolkit.http.sessions import verify_one


def unread() -> Iterator[CheckMessage]:
    """Name what cannot be read of `DATABASES` and `POOLKIT`: bad values, and unknown keys.

    HEALTH, CLUSTERS and ROUTING have checks of their own.
    """
    told: set[str] = set()
    for read in _readers():
        try:
            read()
        except ImproperlyConfigured as error:
            text = str(error)
            if text not in told:
                told.add(text)
                yield Error(
                    text,
                    hint="Nothing is repaired silently: correct it, or remove it.",
                    id="poolkit.E008",
                )


def _readers() -> Iterator[Callable[[], Any]]:
    for name, entry in entries():
        yield partial(verify_database, name, entry)
    for name, wrapper in wrappers():  # those that are made with our mixin, too
        yield partial(pool_config, name, wrapper.settings_dict)
        yield partial(hosts_of, name, wrapper.settings_dict)
    yield control_config
    yield lifespan_config
    yield http_names
    yield asyncpg_aliases
    yield async_orm_config
    try:
        yield from [partial(verify_one, name) for name in http_names()]
        yield from [partial(asyncpg_config, name) for name in asyncpg_aliases()]
    except ImproperlyConfigured:
        return  # told above

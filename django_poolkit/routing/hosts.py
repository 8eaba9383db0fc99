"""The servers of clusters, each by its full name and with its pool."""

from __future__ import annotations

from collections.abc import Iterable
from time import monotonic
from typing import Any, Final

from django.db import connections

from django_poolkit import registry
from django_poolkit.backends.postgresql.base import PooledDatabaseWrapperMixin
from django_poolkit.pools.errors import PoolClosed
from django_poolkit.pools.postgres import ConnectionPool
from django_poolkit.routing import topology

RESPITE: Final = 30.0
"""Seconds for which a database is left alone whose pool has been closed: a test run does so to
drop it, and wants nobody there. Celery does so after each task."""


class Hosts:
    """The pools of aliases, made where nobody has done so yet. None is opened by it."""

    def __init__(self) -> None:
        self._known: dict[str, dict[str, ConnectionPool]] = {}
        self._closed: dict[str, float] = {}  # since when, as far as has been seen

    def pools(self, aliases: Iterable[str]) -> dict[str, ConnectionPool]:
        """Return the pools of some aliases by full name: `alias`, or `alias/key` for each host.

        Leaves out what is closed, and what is no pool of ours.
        """
        return {name: pool for alias in aliases for name, pool in self._of(alias).items()}

    def _of(self, alias: str) -> dict[str, ConnectionPool]:
        if alias not in connections.settings:
            return {}
        keys = topology.host_keys(alias)
        names = [alias] if keys is None else [f"{alias}/{key}" for key in keys]
        known = self._known.get(alias)
        if known is None or list(known) != names:
            known = self._known[alias] = _found(alias)
        for name, pool in list(known.items()):
            if not pool.ended:
                self._closed.pop(name, None)
            elif (successor := _successor(name)) is not None:
                known[name] = successor
            elif monotonic() - self._closed.setdefault(name, monotonic()) > RESPITE:
                known |= {key: made for key, made in _found(alias).items() if key == name}
        return {name: pool for name, pool in known.items() if not pool.ended}


def _found(alias: str) -> dict[str, ConnectionPool]:
    # Not this thread's own, which would keep the settings that it was made with.
    wrapper: Any = connections.create_connection(alias)
    if not isinstance(wrapper, PooledDatabaseWrapperMixin):
        return {}
    try:
        hosts, pool = wrapper.host_pools, wrapper.pool
    except PoolClosed:  # the process ends
        return {}
    if hosts is not None:
        return dict(hosts)
    return {} if pool is None else {alias: pool}


def _successor(name: str) -> ConnectionPool | None:
    found = (pool for pool in registry.pools if name in pool.aliases and not pool.ended)
    return next(found, None)

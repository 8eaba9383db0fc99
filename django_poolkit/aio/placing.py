"""Where a call of the ORM runs: on the loop or on a thread, decided before it, by its aliases.

An alias that cannot be served on the loop, because its connections would block it, is asked on
Django's threads; so is one that the settings leave there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, Final

from django.core.exceptions import ImproperlyConfigured
from django.db import DEFAULT_DB_ALIAS, connections, models, router
from django.db.models.manager import BaseManager
from django.db.models.query import QuerySet, RawQuerySet, prefetch_related_objects
from django.db.utils import load_backend

from django_poolkit.backends.postgresql.base import PooledDatabaseWrapperMixin
from django_poolkit.conf.databases import pool_config

_QUERYSET: Final[Any] = QuerySet
_OWNERS: Final = (QuerySet, models.Model, BaseManager, RawQuerySet)
# What Django gives a thread as functions of no object: the one of a session that is saved, and
# the one that all prefetching comes to.
_SAVING: Final = "SessionStore.asave.<locals>.sync_transaction"
# Sequences that Django pages through, and that are whole already.
_WHOLE: Final = (tuple, range, str, bytes)


def serves(alias: str, entry: Mapping[str, Any]) -> bool:
    """Return whether a loop can wait for the connections of an alias: for those of our pools.

    `entry` is its entry in `DATABASES`. An engine that cannot be loaded is none of ours. Connects
    nothing.
    """
    try:
        engine = load_backend(entry["ENGINE"]).DatabaseWrapper
        ours = issubclass(engine, PooledDatabaseWrapperMixin)
        return ours and pool_config(alias, entry) is not None
    except (ImproperlyConfigured, ImportError):
        return False


def unserved() -> list[str]:
    """Return the aliases that no loop can wait for."""
    return [alias for alias in connections if not serves(alias, connections.settings[alias])]


class Placing:
    """Decides by alias. Is asked for each call, so quick where all aliases run on the loop."""

    def __init__(self, left: Collection[str]) -> None:
        self.left: Final = frozenset(left)
        """The aliases that are asked on threads."""

    def on_loop(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> bool:
        """Return whether a function that Django would give a thread is to run on the loop.

        What is not known here stays on its thread.
        """
        owner = getattr(function, "__self__", None)
        if isinstance(owner, _QUERYSET) and not (
            # The default is all that it can ask, as nearly always.
            owner._db or owner._hints or owner._prefetch_related_lookups or router.routers
        ):
            return DEFAULT_DB_ALIAS not in self.left
        if isinstance(owner, _OWNERS):
            return not self.left or self.left.isdisjoint(_aliases_of(owner, kwargs))
        if function is list:
            return len(args) == 1 and isinstance(args[0], _WHOLE)
        if function is prefetch_related_objects:
            return not self.left or self.left.isdisjoint(_of_instances(*args))
        if getattr(function, "__qualname__", "") == _SAVING:
            return not self.left or _enclosed(function, "using") not in self.left
        return False


def _aliases_of(owner: Any, kwargs: Mapping[str, Any]) -> Iterator[str]:
    """Yield the aliases that a method of a model, a manager or a queryset may ask.

    A method that reads first and writes then may ask two.
    """
    if isinstance(owner, models.Model):
        if kwargs.get("using"):
            yield kwargs["using"]
        else:
            yield from _routed(type(owner), {"instance": owner})
        if (queryset := kwargs.get("from_queryset")) is not None:
            yield from _aliases_of(queryset, {})
        return
    if owner._db:
        yield owner._db
    elif owner.model is not None:
        hints = dict(owner._hints)
        if isinstance(instance := getattr(owner, "instance", None), models.Model):
            hints["instance"] = instance
        yield from _routed(owner.model, hints)
        if (through := getattr(owner, "through", None)) is not None:
            yield from _routed(through, hints)
    yield from _of_lookups(getattr(owner, "_prefetch_related_lookups", ()))


def _routed(model: type[models.Model], hints: Mapping[str, Any]) -> Iterator[str]:
    yield router.db_for_read(model, **hints)
    yield router.db_for_write(model, **hints)


def _of_lookups(lookups: Iterable[Any]) -> Iterator[str]:
    """Yield the aliases that prefetching names. Where it names none, the instances' is asked."""
    for lookup in lookups:
        querysets = [*getattr(lookup, "querysets", ()), getattr(lookup, "queryset", None)]
        for queryset in querysets:
            if queryset is not None:
                if queryset._db:
                    yield queryset._db
                yield from _of_lookups(queryset._prefetch_related_lookups)


def _of_instances(instances: Iterable[Any] = (), *lookups: Any) -> Iterator[str]:
    for instance in instances:
        if isinstance(instance, models.Model):
            yield from _routed(type(instance), {"instance": instance})
    yield from _of_lookups(lookups)


def _enclosed(function: Callable[..., Any], name: str) -> Any:
    """Return a variable that an inner function has of the one around it."""
    names = function.__code__.co_freevars
    cells = function.__closure__ or ()
    return dict(zip(names, cells, strict=True))[name].cell_contents

"""The wrappers that calls in the bridge have: made after a model, since each call needs one.

Django finds the engine of an alias, and has a wrapper and its six parts set themselves up, and
each of them find out for itself what is the same for all. Here that is done once. A wrapper that
has been made so is a new one, as far as anybody can tell: what could change is its own.

One that nobody else has kept hold of is that of the next call (`keeping.py`).
"""

from __future__ import annotations

import _thread
from _thread import get_ident
from collections import deque
from collections.abc import Callable
from datetime import tzinfo
from functools import wraps
from types import FunctionType, ModuleType, NoneType
from typing import Any, Final

from django.core.signals import setting_changed
from django.db import connections

from django_poolkit.aio import keeping
from django_poolkit.backends.postgresql.base import PooledDatabaseWrapperMixin
from django_poolkit.pools.bridge.driver import bridging

# On the function of ours that makes wrappers.
_MARK: Final = "_poolkit_makes"
# Our own engines, and none derived from them, whose wrappers may do what they like as they begin.
_OURS: Final = {"django_poolkit.backends.postgresql.base", "django_poolkit.backends.postgis.base"}
_PARTS: Final = ("client", "creation", "features", "introspection", "ops", "validation")
_ZONES: Final = ("timezone", "timezone_name")
# What wrappers may share, since nobody can change it; and what they may share none the less.
_FIXED: Final = (NoneType, bool, int, float, str, tzinfo, FunctionType, ModuleType)
_SHARED: Final = ("settings_dict", "_seen")


def making(create: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return a `connections.create_connection()` that makes those of calls after a model."""

    @wraps(create)
    def make(alias: str) -> Any:
        if not bridging():
            return create(alias)
        model = _models.get(alias)
        if model is None or not model.fits():
            wrapper = create(alias)
            if (model := Model.of(wrapper)) is None:
                return wrapper
            _models[alias] = model
        return model.wrapper()

    vars(make)[_MARK] = True
    return make


def again(alias: str) -> Any:
    """Return the wrapper of a call that has ended, for another one; None where there is none.

    Nor is there where somebody has put a function in the place of ours, which makes them.
    """
    model = _models.get(alias)
    if model is None or not hasattr(connections.create_connection, _MARK):
        return None
    return keeping.again(alias, model) if model.fits() else None


class Model:
    """A wrapper that nobody uses, and what all those that are made after it have in common."""

    def __init__(self, wrapper: Any) -> None:
        # Has it find out, and keep, what each would at its first statement.
        wrapper.ops.compiler("SQLCompiler")
        for name in _ZONES:
            getattr(wrapper, name)
        self._wrapper = wrapper
        # The settings as they were, and the pool that they ask for.
        (self._settings, _), self._pool = wrapper._seen
        own = dict(vars(wrapper))
        self._parts: list[tuple[str, type[Any], dict[str, Any]]] = [
            (name, type(own[name]), _but_connection(own.pop(name))) for name in _PARTS
        ]
        self._lists = [name for name, value in own.items() if type(value) is list]
        self._common = {
            name: value
            for name, value in own.items()
            if name in _SHARED or isinstance(value, _FIXED)
        } | {"_bridged": True}
        self._rest = own.keys() - self._common - {*self._lists}

    @classmethod
    def of(cls, wrapper: Any) -> Model | None:
        """Return the model of a new wrapper, None for one that has to be made as Django does."""
        if type(wrapper).__module__ not in _OURS or wrapper.pool is None:
            return None
        model = cls(wrapper)
        known = model._rest == {"queries_log", "_thread_sharing_lock"}
        empty = not any(getattr(wrapper, name) for name in ("queries_log", *model._lists))
        plain = all(
            isinstance(value, _FIXED) for *_, more in model._parts for value in more.values()
        )
        return model if known and empty and plain else None

    def fits(self) -> bool:
        """Return whether the settings are those that it was made by: tests change them."""
        settings = self._wrapper.settings_dict
        return (
            settings is connections.settings.get(self._wrapper.alias)
            and settings == self._settings  # as the wrapper itself compares them
            and not getattr(self._pool, "ended", False)
        )

    def wrapper(self) -> PooledDatabaseWrapperMixin:
        """Return another one, for a call in this thread."""
        kind = type(self._wrapper)
        made: PooledDatabaseWrapperMixin = object.__new__(kind)
        own = vars(made)
        own.update(self._common)
        for name in self._lists:
            own[name] = []
        own["queries_log"] = deque(maxlen=kind.queries_limit)
        own["_thread_sharing_lock"], own["_thread_ident"] = _thread.allocate_lock(), get_ident()
        for name, cls, more in self._parts:
            own[name] = part = object.__new__(cls)
            part.connection = made
            if more:
                vars(part).update(more)
        made._kept = keeping.Kept(self, made, _PARTS)
        return made


_models: dict[str, Model] = {}


def _but_connection(part: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(part).items() if name != "connection"}


def _forget(*, setting: str, **_: Any) -> None:
    """Begin anew where wrappers would find out something else now, as Django has its own do."""
    if setting in {"TIME_ZONE", "USE_TZ"}:
        _models.clear()


setting_changed.connect(_forget, dispatch_uid="django_poolkit.aio.making")

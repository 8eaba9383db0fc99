"""Wrappers that go from call to call, since making one costs a tenth of what a query does.

A call's wrapper and its parts refer to each other, so that only the garbage collector would free
it. It is kept for the next call of its thread instead, and goes there if nobody else refers to it:
then nobody can tell that it is not a new one. What the call before has done to it is undone.
"""

from __future__ import annotations

import sysconfig
import threading
from collections import deque
from collections.abc import Collection
from sys import getrefcount
from typing import Any, Final

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.postgresql.base import DatabaseWrapper

from django_poolkit.backends import request
from django_poolkit.backends.postgresql.transaction_mode import PooledDatabaseWrapperMixin

# So many of an alias are kept in a thread at most. None where references are not counted exactly.
_MOST: Final = 0 if sysconfig.get_config_var("Py_GIL_DISABLED") else 32
# So many attributes a wrapper gets as it is used, beside those that it begins with.
_LATER: Final = 4
# What closes a wrapper, where nobody has put anything in between.
_CLOSES: Final = PooledDatabaseWrapperMixin.close
_DJANGOS: Final = BaseDatabaseWrapper.close


class Kept:
    """A wrapper, and what it is like when it is new."""

    __slots__ = (
        "_alone", "_lent", "_lists", "_model", "_new_parts", "_own", "_parts", "_state", "opening",
        "wrapper",
    )  # fmt: skip

    def __init__(self, model: object, wrapper: Any, parts: Collection[str]) -> None:
        self.wrapper = wrapper
        wrapper._kept = self
        # What translates its errors is made for each, and refers to it as its parts do. Of these,
        # what they are like when they are new does so, too.
        assert wrapper.wrap_database_errors is not None
        self._alone = _ALONE + 2 * len(parts) + 1
        self._model = model
        self._own = own = vars(wrapper)
        self._state = dict(own)
        self._parts = [vars(own[name]) for name in parts]
        self._new_parts = [{**part} for part in self._parts]
        self._lists = [value for value in own.values() if isinstance(value, list | deque)]
        # What a call shares with the wrappers of its context (carrying.py).
        self._lent = own["execute_wrappers"], own["queries_log"]
        self.opening: Any = None
        """How it has been opened before, for itself to know (backends/postgresql/awaiting.py)."""

    def end(self, alias: str) -> bool:
        """Close it as `close()` does, and keep it for the next call; return whether it did.

        Not if this call has left something open on it, or something of its own; nor where anybody
        has put a `close()` in the place of ours. Waits for nothing.
        """
        own, state, wrapper = self._own, self._state, self.wrapper
        kept = _here.wrappers.get(alias)
        if kept is None:
            kept = _here.wrappers[alias] = []
        if (
            own["_lease"] is not None
            or own["_raw"] is not None
            or own["in_atomic_block"]
            or own["rollback_exc"] is not None
            or len(own) > len(state) + _LATER  # what somebody has put on it is not kept
            or len(kept) >= _MOST
            or type(wrapper).close is not _CLOSES
            or DatabaseWrapper.close is not _DJANGOS
            or "close" in own
        ):
            return False
        # What it does not share with a context any more, and stays with in its thread.
        own["execute_wrappers"], own["queries_log"] = self._lent
        state["_on_net"], state["_last"] = own["_on_net"], own["_last"]
        own["_opened"], own["run_on_commit"] = False, []
        if (scope := request.current()) is not None:
            scope.forget_use(wrapper)  # what comes is not that request's doing
        kept.append(self)
        return True

    def fits(self, model: object) -> bool:
        """Return whether it is as a model makes them now, and nobody else refers to it."""
        return self._model is model and _references(self) == self._alone and not any(self._lists)

    def renewed(self) -> Any:
        """Return the wrapper, as it is when it is new."""
        self._own.clear()
        self._own.update(self._state)
        if self._parts != self._new_parts:
            for part, new in zip(self._parts, self._new_parts, strict=True):
                part.clear()
                part.update(new)
        return self.wrapper


class _Here(threading.local):
    """Those of a thread, by alias."""

    def __init__(self) -> None:
        self.wrappers: dict[str, list[Kept]] = {}


_here: Final = _Here()


def again(alias: str, model: object) -> Any:
    """Return a wrapper that is kept in this thread, None where there is none that fits."""
    kept = _here.wrappers.get(alias)
    while kept:
        if (one := kept.pop()).fits(model):
            return one.renewed()
    return None


def _references(kept: Any) -> int:
    return getrefcount(kept.wrapper)


class _Sole:
    def __init__(self) -> None:
        self.wrapper = object()


# What this counts for an object to which one other refers: Python's own do so for a moment.
_ALONE: Final = _references(_Sole())

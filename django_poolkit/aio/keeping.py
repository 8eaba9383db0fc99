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

from django_poolkit.backends import request

# So many of an alias are kept in a thread at most. None where references are not counted exactly.
_MOST: Final = 0 if sysconfig.get_config_var("Py_GIL_DISABLED") else 32
# So many attributes a wrapper gets as it is used, beside those that it begins with.
_LATER: Final = 4
# What a call shares with the wrappers of its context (carrying.py).
_LENT: Final = ("execute_wrappers", "queries_log")


class Kept:
    """A wrapper, and what it is like when it is new."""

    __slots__ = ("_alone", "_lists", "_model", "_own", "_parts", "_state", "wrapper")

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
        self._parts = [(vars(own[name]), dict(vars(own[name]))) for name in parts]
        self._lists = [value for value in own.values() if isinstance(value, list | deque)]

    def rest(self, alias: str) -> None:
        """Keep it for the next call, if this one has left it closed, and nothing open on it."""
        own, state = self._own, self._state
        if (
            own["_lease"] is not None
            or own["_raw"] is not None
            or own["_opened"]
            or own["in_atomic_block"]
            or own["rollback_exc"] is not None
            or len(own) > len(state) + _LATER  # what somebody has put on it is not kept
        ):
            return
        for name in _LENT:
            own[name] = state[name]
        state["_on_net"] = own["_on_net"]  # of its thread, in which it stays
        if (scope := request.current()) is not None:
            scope.wrappers.discard(self.wrapper)  # what comes is not that request's doing
        kept = _here.wrappers.setdefault(alias, [])
        if len(kept) < _MOST:
            kept.append(self)

    def fits(self, model: object) -> bool:
        """Return whether it is as a model makes them now, and nobody else refers to it."""
        return self._model is model and _references(self) == self._alone and not any(self._lists)

    def renewed(self) -> Any:
        """Return the wrapper, as it is when it is new."""
        self._own.clear()
        self._own.update(self._state)
        for have, new in self._parts:
            if have != new:
                have.clear()
                have.update(new)
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

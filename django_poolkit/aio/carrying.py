"""What a request's own wrapper carries, that its calls in the bridge have to see.

A middleware may have set a tenant on it, pinned it, or put wrappers around its statements. So the
wrapper that a context has used last is remembered, that of its thread and that of the loop; a
context variable carries it from the thread of a middleware to the view, as asgiref copies these
both ways.

What is a list or a flag the wrappers of calls share with it. A wrapper that carries more than
that is used itself, by one call after the other.
"""

from __future__ import annotations

from asyncio import _get_running_loop
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, Final
from weakref import ref

from django.db import DEFAULT_DB_ALIAS, connections
from django.utils.functional import cached_property

from django_poolkit.aio.turns import Node
from django_poolkit.backends import request
from django_poolkit.backends.postgresql.base import DatabaseWrapper, PooledDatabaseWrapperMixin
from django_poolkit.backends.request import Held

_Seen = Mapping[str, ref[PooledDatabaseWrapperMixin]]
_NONE: Final[_Seen] = {}
_of_thread: Final[ContextVar[_Seen]] = ContextVar("django_poolkit_of_thread", default=_NONE)
_of_loop: Final[ContextVar[_Seen]] = ContextVar("django_poolkit_of_loop", default=_NONE)


def note(alias: str, wrapper: Any) -> None:
    """Remember a wrapper that this context uses outside of the bridge."""
    variable = _of_thread if _get_running_loop() is None else _of_loop
    seen = variable.get()
    known = seen.get(alias)
    if (known is None or known() is not wrapper) and isinstance(
        wrapper, PooledDatabaseWrapperMixin
    ):
        variable.set({**seen, alias: ref(wrapper)})


def forget(alias: str) -> None:
    """Forget the wrapper of an alias, which has been taken away."""
    variable = _of_thread if _get_running_loop() is None else _of_loop
    seen = variable.get()
    if alias in seen:
        variable.set({name: wrapper for name, wrapper in seen.items() if name != alias})


def adopt(alias: str, wrapper: Any) -> None:
    """Have the wrapper of a call share the lists and the flag of the context's own ones."""
    if not (owns := _own(alias)):
        return
    # Who looks at the statements of a block of async code, or puts wrappers around them, does so
    # on the loop's; a middleware's are on the thread's.
    chosen = next((own for own in owns if own.execute_wrappers or own.queries_logged), owns[0])
    wrapper.execute_wrappers = chosen.execute_wrappers
    wrapper.queries_log = chosen.queries_log
    wrapper.force_debug_cursor = chosen.force_debug_cursor


def node_of(alias: str) -> Node | None:
    """Return the node of the context's own wrapper, where calls have to use it; else None."""
    for own in _own(alias):
        if _carries(own):
            node: Node | None = own._node
            if node is None:
                node = own._node = Node(alias, own)
            return node
    return None


def _own(alias: str) -> list[PooledDatabaseWrapperMixin]:
    """Return the context's own wrappers of an alias: first the loop's, which is nearer."""
    found = []
    for variable in (_of_loop, _of_thread):
        known = variable.get().get(alias)
        if known is not None and (wrapper := known()) is not None:
            found.append(wrapper)
    return found


def _carries(own: PooledDatabaseWrapperMixin) -> bool:
    """Return whether a wrapper has more on it than its calls can share otherwise."""
    if own._by_hand:
        return True
    lease = own._lease
    if lease is not None and not lease.released and (lease.pinned or lease.dirty):
        return True
    # Not within atomic(), which is a thread's own; but by hand it is meant for all that follows.
    opened = own._opened or own._raw is not None
    if opened and not own.in_atomic_block and own.autocommit != own.settings_dict["AUTOCOMMIT"]:
        return True
    if own.settings_dict is not connections.settings.get(own.alias):
        return True
    return not own.__dict__.keys() <= _plain()


# What a wrapper of ours has at most that nobody has put anything on. A class that others derive
# may keep anything under its own names: these are none of them, so such a wrapper is used itself.
_LATER: Final = {
    "_handed", "_named_cursor_idx", "_outside", "_seen", "_twin_of", "isolation_level",
}  # fmt: skip
_CACHED: Final = {
    name
    for kind in DatabaseWrapper.__mro__
    for name, value in vars(kind).items()
    if isinstance(value, cached_property)
}
_names: set[str] = set()


def _plain() -> set[str]:
    if not _names:
        plain = DatabaseWrapper(dict(connections.settings[DEFAULT_DB_ALIAS]))
        _names.update(vars(plain), _CACHED, _LATER)
    return _names


def returned(node: Node) -> None:
    """Take note that a call has used a wrapper of the context's own.

    What it has leased there is left to the wrapper's thread to close, and to the request's end.
    """
    own = node.wrapper
    if own._node is not node or (lease := own._lease) is None or own._scope is not None:
        return
    if (scope := request.current()) is not None and scope.owned and not own.allow_thread_sharing:
        own._scope = scope
        scope.leases[lease] = Held(own, None, late=scope.over)

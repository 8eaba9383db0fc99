"""What a request's own wrapper carries, that its calls in the bridge have to see.

A middleware may have set a tenant on it, pinned it, or put wrappers around its statements. So the
wrapper that a context has used last is remembered, that of its thread and that of the loop; a
context variable carries it from the thread of a middleware to the view, as asgiref copies these
both ways.

What is a list or a flag the wrappers of calls share with it. A wrapper that carries more than
that is used itself, by one call after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from django.db import DEFAULT_DB_ALIAS, connections
from django.utils.functional import cached_property

from django_poolkit.aio.turns import Node
from django_poolkit.backends import request
from django_poolkit.backends.postgresql.base import DatabaseWrapper, PooledDatabaseWrapperMixin
from django_poolkit.backends.request import Held
from django_poolkit.pools.postgres.connection import no_lease


def adopt(wrapper: Any, known: Sequence[Any]) -> None:
    """Have the wrapper of a call share the lists and the flag of the context's own ones."""
    # Who looks at the statements of a block of async code, or puts wrappers around them, does so
    # on the loop's; a middleware's are on the thread's.
    chosen = known[0]
    if len(known) > 1:
        for each in known:
            if each.execute_wrappers or each.queries_logged:
                chosen = each
                break
    wrapper.execute_wrappers = chosen.execute_wrappers
    wrapper.queries_log = chosen.queries_log
    wrapper.force_debug_cursor = chosen.force_debug_cursor


def node_of(alias: str, known: Sequence[Any]) -> Node | None:
    """Return the node of the context's own wrapper, where calls have to use it; else None.

    Raises RuntimeError where they have to and must not, as its thread has a transaction open.
    """
    for wrapper in known:
        theirs = wrapper.in_atomic_block and not wrapper.blocks
        if _is_marked(wrapper):
            if theirs:
                raise RuntimeError(
                    f"the connection of {alias!r} carries something of this request's, as a "
                    "tenant, and a thread is within atomic() on it: await that thread first"
                )
        elif theirs or not _is_held(wrapper):
            continue
        node: Node | None = wrapper._node
        if node is None:
            node = wrapper._node = Node(alias, wrapper)
        return node
    return None


def _is_held(wrapper: PooledDatabaseWrapperMixin) -> bool:
    """Return whether the session of a wrapper is meant for all that follows in its request."""
    if wrapper._hand is not no_lease and wrapper._by_hand:
        return True
    lease = wrapper._lease
    if lease is not None and not lease.released and (lease.pinned or lease.dirty):
        return True
    opened = wrapper._opened or wrapper._raw is not None
    return opened and wrapper.autocommit != wrapper.settings_dict["AUTOCOMMIT"]


def _is_marked(wrapper: PooledDatabaseWrapperMixin) -> bool:
    """Return whether somebody has put on a wrapper what no other one has."""
    if wrapper.settings_dict is not connections.settings.get(wrapper.alias):
        return True
    if (plain := _names or _plain()).issuperset(wrapper.__dict__):
        return False
    return any(_differs(wrapper, name) for name in wrapper.__dict__.keys() - plain)


def _differs(wrapper: Any, name: str) -> bool:
    """Return whether an attribute is another one than its class has.

    Django's test cases put methods on wrappers, and leave the class's own there in the end.
    """
    return getattr(wrapper.__dict__[name], "__func__", wrapper) is not getattr(
        type(wrapper), name, None
    )


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
    """Take note that a call has used the wrapper of a node, where that is the context's own.

    What it has leased there is left to the wrapper's thread to close, and to the request's end.
    """
    wrapper, scope = node.wrapper, request.current()
    if wrapper._node is not node or wrapper._lease is None or wrapper._scope is not None:
        return
    if scope is not None and scope.owned and not wrapper.allow_thread_sharing:
        wrapper._scope = scope
        scope.leases[wrapper._lease] = Held(wrapper, None, late=scope.over)

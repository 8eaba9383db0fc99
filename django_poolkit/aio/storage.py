"""Where `django.db.connections` keeps its wrappers: by thread as ever, in the bridge by call.

Django's handler keeps them on one object, and all of its verbs go through the attributes of that.
So this takes its place, and nothing of Django is patched beside.
"""

from __future__ import annotations

from typing import Any

from django_poolkit.aio.calls import call_of_bridge
from django_poolkit.aio.turns import node_of
from django_poolkit.backends import own
from django_poolkit.backends.postgresql.base import PooledDatabaseWrapperMixin


class Storage:
    """Stands for `connections._connections`.

    In the bridge, each call has wrappers of its own, but for those of a block around it. In such
    a block, threads and tasks have the block's wrapper, too. Everything else is as it was.
    """

    __slots__ = ("_original",)

    def __init__(self, original: Any) -> None:
        object.__setattr__(self, "_original", original)

    def __getattr__(self, alias: str) -> Any:
        call = call_of_bridge()
        if call is not None:
            if (wrapper := call.find(alias)) is None:
                raise AttributeError(alias)  # so Django's handler makes one
            return wrapper
        if (node := node_of(alias)) is not None:
            return node.wrapper
        wrapper = getattr(self._original, alias)
        if isinstance(wrapper, PooledDatabaseWrapperMixin):
            own.note(alias, wrapper)
        return wrapper

    def __setattr__(self, alias: str, wrapper: Any) -> None:
        call = call_of_bridge()
        if call is not None:
            call.own(alias, wrapper)
        else:
            setattr(self._original, alias, wrapper)
            if isinstance(wrapper, PooledDatabaseWrapperMixin):
                own.note(alias, wrapper)

    def __delattr__(self, alias: str) -> None:
        call = call_of_bridge()
        if call is not None:
            call.drop(alias)
        else:
            delattr(self._original, alias)
            own.forget(alias)

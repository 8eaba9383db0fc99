"""What must be no more after many requests than after a few."""

from __future__ import annotations

import gc
from collections import Counter
from typing import Any

from django.db import connections

_OURS = ("django_poolkit", "psycopg", "django.db.backends")
# psycopg remembers the last 128 texts, and a named cursor's name makes each a new one. The control
# socket keeps figures of the last minute, one a few seconds.
_BOUNDED = ("psycopg._queries", "django_poolkit.pools.stats")


def census() -> dict[str, int]:
    """Count what is alive of pools, drivers and their classes, and what wraps a connection."""
    gc.collect()
    alive: list[Any] = gc.get_objects()
    # Not isinstance(): a lazy object would be made for that.
    classes = [each for each in alive if issubclass(type(each), type)]
    servers = wrappers = depth = 0
    for each in connections.all():
        wrapper: Any = each
        wrappers += len(wrapper.execute_wrappers)
        if getattr(wrapper, "pool", None) is not None:
            servers += wrapper.pool.stats().size
        with wrapper.cursor() as cursor:
            depth += len(type(cursor).__mro__)
            depth += len(type(getattr(cursor, "cursor", cursor)).__mro__)
        wrapper.close()
    return {
        **Counter(_name(type(each)) for each in alive if _is_ours(type(each))),
        "classes": sum(_is_ours(each) for each in classes),
        "connections": servers,
        "execute wrappers": wrappers,
        "depth of the cursors' classes": depth,
    }


def grown(few: dict[str, int], many: dict[str, int]) -> dict[str, tuple[int, int]]:
    """Return what there is another number of, with both numbers."""
    names = few.keys() | many.keys()
    before_and_after = {name: (few.get(name, 0), many.get(name, 0)) for name in names}
    return {name: pair for name, pair in before_and_after.items() if pair[0] != pair[1]}


def _is_ours(kind: type) -> bool:
    module = str(getattr(kind, "__module__", ""))
    return module.startswith(_OURS) and module not in _BOUNDED


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"

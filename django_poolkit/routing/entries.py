"""Floors in a cache, by user: for who is logged in at several places, or keeps no cookies.

An entry belongs to a user, or to a visitor of whom no more is known. A *link* leads from a visitor
to its user, so that nobody has to load a session, which is in a database, to find the entry. All
of them are tokens and hashes: who reads the cache learns nothing from them.

A cache that fails costs nobody a request: it is as if it were empty.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, Final

from django.core.cache import caches

from django_poolkit.conf.routing import routing_config
from django_poolkit.routing import figures
from django_poolkit.routing.floors import Floor
from django_poolkit.routing.token import merge, seal, unseal

logger = logging.getLogger("django_poolkit.routing")

LINK: Final = 86_400.0
"""Seconds that a link lasts, where no session says for how long its visitor is known."""

_NOTHING: Final[Mapping[str, Floor]] = MappingProxyType({})

# Whether the cache failed when it was last asked: said once, not with every request.
_failing = False


def read(
    alias: str, visitor: bytes | None, user: str | None
) -> tuple[dict[str, Floor], str | None]:
    """Return what a visitor, and its user, must see; and who that user is, if the cache knows.

    Blocks as the cache does. Never raises.
    """
    found: dict[str, Floor] = {}
    with _tolerated(alias):
        cache = caches[alias]
        if user is None and visitor is not None:
            answer = cache.get_many([_own(visitor), _link(visitor)])
            merge(found, _unsealed(answer.get(_own(visitor))))
            linked = answer.get(_link(visitor))
            user = linked if isinstance(linked, str) else None
        if user is not None:
            merge(found, _unsealed(cache.get(_of(user))))
    return found, user


def write(
    alias: str,
    floors: Mapping[str, Floor],
    visitor: bytes | None,
    user: str | None,
    known: Mapping[str, Floor] = _NOTHING,
) -> None:
    """Enter what a user, or else a visitor, must see, beside what is entered already.

    `known` is what had been entered when the request came: the floors stand for it. Blocks as the
    cache does. Never raises.
    """
    if user is None and visitor is None:
        return
    with _tolerated(alias):
        cache = caches[alias]
        key = _own(visitor) if user is None and visitor is not None else _of(user or "")
        # Two that write at the same moment may undo each other here; each has its cookie.
        together = _unsealed(cache.get(key))
        for name in floors:
            # Else a time pin, or a position of a timeline that is over, would last for as long as
            # the user writes: with a position it makes a pin, and that lasts as long as both.
            if name in known and together.get(name) == known[name]:
                del together[name]
        merge(together, floors)
        cache.set(key, seal(together), math.ceil(routing_config().max_age))


def link(alias: str, visitor: bytes, user: str, seconds: float | None) -> None:
    """Enter whose visitor this is, for so long. Blocks as the cache does. Never raises."""
    with _tolerated(alias):
        caches[alias].set(_link(visitor), user, math.ceil(LINK if seconds is None else seconds))


@contextmanager
def _tolerated(alias: str) -> Iterator[None]:
    global _failing
    try:
        yield
    except Exception as error:
        figures.carrier_failed("cache")
        if not _failing:
            _failing = True
            # What it says may have addresses and passwords in it.
            logger.warning(
                "event=carrier_failed carrier=cache alias=%s error=%s", alias, type(error).__name__
            )
    else:
        _failing = False


def _unsealed(value: Any) -> dict[str, Floor]:
    return unseal(value) if isinstance(value, str) else {}


def _own(visitor: bytes) -> str:
    return f"poolkit:floor:visitor:{visitor.hex()}"


def _of(user: str) -> str:
    return f"poolkit:floor:user:{user}"


def _link(visitor: bytes) -> str:
    return f"poolkit:floor:link:{visitor.hex()}"

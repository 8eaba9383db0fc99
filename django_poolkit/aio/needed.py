"""The names of Django and asgiref that calls in the bridge need to mean something else.

Four, and nothing is copied of what they belong to. Outside of the bridge they do what they ever
did. They are given their meaning as the first function is made `bridged`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, Final

from asgiref import sync
from django.db import connections
from django.utils import asyncio as django_asyncio

from django_poolkit.aio.inward import inward
from django_poolkit.aio.making import making
from django_poolkit.aio.storage import Storage
from django_poolkit.pools.bridge.driver import bridging


@dataclass(frozen=True, slots=True, kw_only=True)
class Needed:
    """A name that is given another meaning."""

    owner: Any
    """The object that has it."""
    attribute: str
    make: Callable[[Any], Any]
    """Returns what the name is to mean, given what it means now."""
    reason: str

    def __str__(self) -> str:
        owner = getattr(self.owner, "__qualname__", None) or getattr(
            self.owner, "__name__", type(self.owner).__name__
        )
        return f"{owner}.{self.attribute}"


def _unseen(get_running_loop: Callable[[], Any]) -> Callable[[], Any]:
    @wraps(get_running_loop)
    def seen() -> Any:
        if bridging():
            raise RuntimeError("synchronous code in the bridge blocks no event loop")
        return get_running_loop()

    return seen


NEEDED: Final = (
    Needed(
        owner=connections,
        attribute="_connections",
        make=Storage,
        reason="each call in the bridge has database wrappers of its own",
    ),
    Needed(
        owner=connections,
        attribute="create_connection",
        make=making,
        reason="what each call in the bridge needs is made without being set up each time",
    ),
    Needed(
        owner=django_asyncio,
        attribute="get_running_loop",
        make=_unseen,
        reason="@async_unsafe lets pass what does not block the loop, and nothing else",
    ),
    Needed(
        owner=sync.AsyncToSync,
        attribute="__call__",
        make=inward,
        reason="synchronous code in the bridge can await, and lends its transactions",
    ),
)
"""All of them."""

_lock = threading.Lock()
_before: list[Any] = []  # what the names meant; guarded by `_lock` where it changes


def missing() -> list[str]:
    """Return the names that are not there, as in a Django that has moved them."""
    return [str(each) for each in NEEDED if not hasattr(each.owner, each.attribute)]


def install() -> None:
    """Give the names their meaning; does nothing where they have it. Raises RuntimeError."""
    if _before:
        return
    if names := missing():
        raise RuntimeError(
            f"this Django or asgiref has no {', '.join(names)}, which django_poolkit.aio needs: "
            "use sync_to_async() instead of bridged(), and versions that django_poolkit names"
        )
    with _lock:
        if not _before:
            before = [getattr(each.owner, each.attribute) for each in NEEDED]
            for each, meaning in zip(NEEDED, before, strict=True):
                setattr(each.owner, each.attribute, each.make(meaning))
            _before.extend(before)


def uninstall() -> None:
    """Give the names back what they meant before. For tests: no call may be under way."""
    with _lock:
        for each, meaning in zip(NEEDED, _before, strict=False):
            setattr(each.owner, each.attribute, meaning)
        _before.clear()

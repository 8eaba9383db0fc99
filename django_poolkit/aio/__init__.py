"""The synchronous ORM in tasks of an event loop, without threads: `bridged`, `aatomic`, `apinned`.

They need greenlet (`pip install django-poolkit[bridge]`), and work with or without
`POOLKIT["ASYNC_ORM"]`: that setting has Django's own `a*` methods run in the same way.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from django_poolkit.aio.bridging import bridged as bridged
    from django_poolkit.aio.pinning import apinned as apinned
    from django_poolkit.aio.transaction import aatomic as aatomic

_HOMES: Final = {"aatomic": "transaction", "apinned": "pinning", "bridged": "bridging"}

__all__ = ["aatomic", "apinned", "bridged"]


def __getattr__(name: str) -> Any:
    # Lazy, so that what needs no greenlet can be imported without it.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)

"""Counts how often asgiref has a thread run something."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from asgiref.sync import SyncToAsync


class Hops(list[str]):
    """The names of the functions that a thread was given, in order."""


@contextmanager
def counted() -> Iterator[Hops]:
    """Count within a block. What runs stays as it is."""
    hops = Hops()
    real = SyncToAsync.__call__

    async def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        hops.append(getattr(self.func, "__qualname__", type(self.func).__name__))
        return await real(self, *args, **kwargs)

    with mock.patch.object(SyncToAsync, "__call__", call):
        yield hops

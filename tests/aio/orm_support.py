"""What tests of the ORM on the loop share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django_poolkit.aio import orm
from django_poolkit.conf.async_orm import AsyncOrmConfig


@contextmanager
def on_loop(*, thread_aliases: tuple[str, ...] = (), middleware: bool = False) -> Iterator[None]:
    """Have Django's async methods run on the loop within a block."""
    config = AsyncOrmConfig(enabled=True, thread_aliases=thread_aliases, middleware=middleware)
    orm.install(config)
    try:
        yield
    finally:
        orm.uninstall()

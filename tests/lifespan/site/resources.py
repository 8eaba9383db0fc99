"""The resources of the site, as SITE_PLAN has them: `{"a": {"opening": "hang"}, …}`, in order.

`opening` and `closing` are what goes wrong: `fail`, `hang`, or seconds that it takes. `needs` is a
file without which it cannot be opened. The rest goes to the decorator.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
from asgiref.sync import sync_to_async
from django.db import connection

from django_poolkit import lifespan
from tests.lifespan.site.journal import note
from tests.lifespan.site.settings import PLAN

SECRET = "postgres://teller:s3same@db/shop"


class Service:
    """What a resource is open as."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.loop = asyncio.get_running_loop()
        self.task = asyncio.current_task()
        self.open = True


def _said(name: str) -> str:
    # Not where it is raised: lines of code are shown.
    return f"{name}: no route for {SECRET}"


async def _go_wrong(way: Any, name: str) -> None:
    if way == "fail":
        raise ConnectionError(_said(name))
    if way == "hang":
        await asyncio.sleep(3600)
    if isinstance(way, (int, float)):
        await asyncio.sleep(way)


def _ask_database() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    connection.close()


def declare(
    name: str, *, opening: Any = None, closing: Any = None, needs: str = "", **options: Any
) -> lifespan.Declared[Service]:
    """Declare one resource of the plan."""

    async def service() -> AsyncIterator[Service]:
        note(f"opening {name}")
        await _go_wrong(opening, name)
        if needs and not os.access(needs, os.F_OK):
            raise ConnectionError(_said(name))
        made = Service(name)
        note(f"open {name}")
        try:
            yield made
        finally:
            made.open = False
            note(f"closing {name}")
            assert asyncio.current_task() is made.task
            await _go_wrong(closing, name)
            note(f"close {name}")

    return lifespan.resource(name=name, **options)(service)


@asynccontextmanager
async def _group() -> AsyncIterator[anyio.abc.TaskGroup]:
    """A task group of anyio's with a task that runs as long as the server."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_heart, name="heart")
        note("open group")
        yield tasks
        tasks.cancel_scope.cancel()
    note("close group")


async def _heart() -> None:
    while True:  # noqa: ASYNC110 - it waits for nothing
        await asyncio.sleep(0.01)


@asynccontextmanager
async def _farewell() -> AsyncIterator[None]:
    """Uses the database as it closes: pools close last."""
    yield
    await sync_to_async(_ask_database)()
    note("farewell")


def __getattr__(name: str) -> lifespan.Declared[Any]:
    # The settings name them, in the order of the plan.
    if name not in PLAN:
        raise AttributeError(name)
    special: dict[str, Any] = {"group": _group, "farewell": _farewell}
    if name in special:
        globals()[name] = lifespan.resource(name=name)(special[name])
    else:
        globals()[name] = declare(name, **PLAN[name])
    return globals()[name]  # type: ignore[no-any-return]

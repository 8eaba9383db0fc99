"""django-async-backend, for `tests.benchmarks.async_orm`: orders in, figures out.

Run as a script by that program, in an environment of its own, with its settings as the argument.
Each line of its input is an order, each line of its output the answer, both JSON.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from pathlib import Path
from typing import Any

import django
from django.conf import settings


def requests_of() -> Callable[[int], Awaitable[object]]:
    """Return what a request does: its queries, and its end, after which its task has nothing."""
    from django.db import models
    from django_async_backend.db import close_old_async_connections
    from django_async_backend.db.models.base import AsyncModelMixin

    class Item(AsyncModelMixin, models.Model):  # type: ignore[misc]
        """The table of the others."""

        name = models.CharField(max_length=100)

        class Meta:
            app_label, db_table, managed = "worker", "app_item", False

    async def request(queries: int) -> None:
        for _ in range(queries):
            await Item.async_objects.aget(pk=1)
        await close_old_async_connections()

    return request


def measuring() -> Any:
    """Return `async_measure`, all that it has of the checkout, which is not on its path."""
    spec = importlib.util.spec_from_file_location(
        "async_measure", Path(__file__).with_name("async_measure.py")
    )
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    """Answer the orders until there is none left."""
    measure = measuring()
    given: dict[str, Any] = json.loads(sys.argv[1])
    loop = given.pop("LOOP")
    factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    if loop == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    settings.configure(
        USE_TZ=True,
        INSTALLED_APPS=["django_async_backend"],
        DATABASES={"default": given},
        LOGGING_CONFIG=None,
    )
    django.setup()
    request = requests_of()
    with asyncio.Runner(loop_factory=factory) as runner:
        for line in sys.stdin:
            order = json.loads(line)
            if order["do"] == "queries":
                work = measure.one_at_a_time(request, order["times"])
            else:
                work = measure.at_once(request, order["tasks"])
            # As a server's tasks are: without what the one before had.
            answer = runner.run(work, context=copy_context())
            print(json.dumps({"found": answer}), flush=True)


if __name__ == "__main__":
    main()

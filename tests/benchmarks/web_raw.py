"""The pages of `tests.benchmarks.web` without an ORM: what is left is the driver and Django.

On psycopg each thread holds on to a connection; on asyncpg there is asyncpg's own pool. Neither has
anything that a site could be built on: it is the floor.
"""

from __future__ import annotations

import asyncio
import random
import threading
from typing import Any

from django.http import HttpRequest, HttpResponse, JsonResponse
from web_site import (  # type: ignore[import-not-found]
    DATABASE,
    MORE,
    PAGE,
    QUERIES,
    ROWS,
    UPDATES,
    key,
    pages_of,
)

SIZE = 8
ONE = "SELECT id, number FROM world WHERE id = "
ALL = "SELECT id, message FROM fortune"
WRITE = "UPDATE world SET number = new.number FROM unnest({}, {}) AS new (id, number) WHERE "
WRITE += "world.id = new.id"
Found = tuple[int, Any]

_mine = threading.local()
_pools: dict[asyncio.AbstractEventLoop, Any] = {}
_opening = asyncio.Lock()


def run(statement: str, *parameters: Any) -> Any:
    """Run a statement on the thread's own connection; return its cursor."""
    import psycopg

    if not hasattr(_mine, "connection"):
        names = {"HOST": "host", "PORT": "port", "USER": "user", "PASSWORD": "password"}
        there = {names[name]: DATABASE[name] for name in names}
        # As Django's connections: in autocommit, and preparing nothing.
        _mine.connection = psycopg.connect(
            **there, dbname=DATABASE["NAME"], autocommit=True, prepare_threshold=None
        )
    return _mine.connection.execute(statement, parameters)


async def pool() -> Any:
    """Return asyncpg's pool of this loop."""
    import asyncpg

    async with _opening:
        loop = asyncio.get_running_loop()
        if loop not in _pools:
            names = {"HOST": "host", "PORT": "port", "USER": "user", "PASSWORD": "password"}
            there = {names[name]: DATABASE[name] for name in names}
            _pools[loop] = await asyncpg.create_pool(
                **there, database=DATABASE["NAME"], min_size=SIZE, max_size=SIZE
            )
    return _pools[loop]


def shown(row: Found) -> dict[str, Any]:
    """Return a row as the pages have it."""
    return {"id": row[0], "randomNumber": row[1]}


def page_of(rows: list[Found]) -> HttpResponse:
    """Return the page of fortunes: one more, sorted, escaped."""
    found = [{"id": each[0], "message": each[1]} for each in [*rows, (0, MORE)]]
    return HttpResponse(PAGE.render({"fortunes": sorted(found, key=lambda one: one["message"])}))


def changed() -> list[int]:
    """Return rows to change, in the order in which nobody locks another out."""
    return sorted(random.sample(range(1, ROWS), UPDATES))


# -- psycopg


def one() -> Found:
    """Return one of the rows."""
    found: Found = run(ONE + "%s", key()).fetchone()
    return found


def db(request: HttpRequest) -> JsonResponse:
    """Answer with one row."""
    return JsonResponse(shown(one()))


def queries(request: HttpRequest) -> JsonResponse:
    """Answer with rows that were asked for one by one."""
    return JsonResponse([shown(one()) for _ in range(QUERIES)], safe=False)


def fortunes(request: HttpRequest) -> HttpResponse:
    """Answer with a page of all rows."""
    return page_of(run(ALL).fetchall())


def updates(request: HttpRequest) -> JsonResponse:
    """Read rows one by one, and write them all."""
    read = [run(ONE + "%s", number).fetchone() for number in changed()]
    written = [(row[0], key()) for row in read]
    ids, numbers = (list(each) for each in zip(*written, strict=True))
    run(WRITE.format("%s::bigint[]", "%s::int[]"), ids, numbers)
    return JsonResponse([shown(row) for row in written], safe=False)


# -- asyncpg


async def aone() -> Found:
    """Return one of the rows, on a connection that is given back after it."""
    found: Found = await (await pool()).fetchrow(ONE + "$1", key())
    return found


async def adb(request: HttpRequest) -> JsonResponse:
    """Answer with one row."""
    return JsonResponse(shown(await aone()))


async def aqueries(request: HttpRequest) -> JsonResponse:
    """Answer with rows that were asked for one by one."""
    return JsonResponse([shown(await aone()) for _ in range(QUERIES)], safe=False)


async def afortunes(request: HttpRequest) -> HttpResponse:
    """Answer with a page of all rows."""
    return page_of(await (await pool()).fetch(ALL))


async def aupdates(request: HttpRequest) -> JsonResponse:
    """Read rows one by one, and write them all."""
    there = await pool()
    read = [await there.fetchrow(ONE + "$1", number) for number in changed()]
    written = [(row[0], key()) for row in read]
    ids, numbers = (list(each) for each in zip(*written, strict=True))
    await there.execute(WRITE.format("$1::bigint[]", "$2::int[]"), ids, numbers)
    return JsonResponse([shown(row) for row in written], safe=False)


urlpatterns = pages_of(globals())

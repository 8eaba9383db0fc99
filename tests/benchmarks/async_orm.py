"""What Django's async ORM costs, on the event loop and on threads: one run, side by side.

Measures the CPU that the process takes, all its threads together, for a query and for requests of
three queries that many tasks make at once. It starts a server of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import statistics
import sys
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from time import perf_counter, process_time
from typing import Any

import django
from django.conf import settings

from django_poolkit.testing import Cluster, Node

SYNC = "sync, pooled"
OURS = "ours, on the loop"
DJANGO = "Django's, under ASGI"
SHARED = "Django's, one thread"

READING = f"""
contestants:
  {SYNC}          Model.objects.get() in a thread, on our pool in transaction mode
  {OURS}     Model.objects.aget() with POOLKIT["ASYNC_ORM"], on the same pool
  {DJANGO}  the same as Django has it, on its own engine and pool: a thread context for
                        each request, closed with its connections at the request's end
  {SHARED}  the same without such a context: one thread for all of them

how to read the tables:
  The first: one query at a time, a request for each. "cpu" is the median over the rounds of the
  process's CPU for one query in microseconds, "least" the round that took least.
  The second: tasks that each are a request of three queries, all begun at once, on 10
  connections, with a timeout of 60 s. "cpu" is that of one request, "requests/s" are by the
  clock, "threads" the most that were alive. With one thread for all there is no second table.
  The contestants take turns. The server runs beside, and is not counted. Compare ratios of one
  run, never times of two.

examples:
  python -m tests.benchmarks.async_orm                 a minute
  python -m tests.benchmarks.async_orm --rounds 60     for figures that are to be quoted
  python -m tests.benchmarks.async_orm --uvloop        on uvloop
  python -m tests.benchmarks.async_orm --json          the same, for another program
"""

Row = dict[str, Any]
Work = Callable[[], Awaitable[object]]
CONNECTIONS = 10
QUERIES = 3


def configure(node: Node) -> None:
    """Set Django up with two ways to one database, and the ORM on the loop for ours."""
    entry = node.django_settings()
    pool = {"min_size": 1, "max_size": CONNECTIONS, "timeout": 60.0}
    ours = {
        "ENGINE": "django_poolkit.backends.postgresql",
        "OPTIONS": {"pool": {**pool, "mode": "transaction"}},
    }
    stock = {"ENGINE": "django.db.backends.postgresql", "OPTIONS": {"pool": pool}}
    settings.configure(
        USE_TZ=True,
        INSTALLED_APPS=["django_poolkit", "tests.app"],
        DATABASES={"default": entry | ours, "stock": entry | stock},
        # Under a load that is wanted, what is slow is no finding.
        POOLKIT={"ASYNC_ORM": {"ENABLED": True, "THREAD_ALIASES": ["stock"], "SLOW_SLICE": None}},
        LOGGING_CONFIG=None,
    )
    django.setup()


@contextmanager
def table(node: Node) -> Iterator[None]:
    """Have the table of the queries, with a row."""
    from django.db import connection, connections

    from tests.app.models import Item

    with connection.schema_editor() as editor:
        editor.create_model(Item)
    Item.objects.create(pk=1, name="a")
    connections.close_all()
    try:
        yield
    finally:
        with connection.schema_editor() as editor:
            editor.delete_model(Item)
        for alias in connections:
            connections[alias].close()
            connections[alias].close_pool()  # type: ignore[attr-defined]


async def on_loop(queries: int) -> None:
    """Be a request of ours."""
    from tests.app.models import Item

    for _ in range(queries):
        await Item.objects.aget(pk=1)


async def shared(queries: int) -> None:
    """Be a request of Django's, on the one thread that all have where no context is begun."""
    from tests.app.models import Item

    for _ in range(queries):
        await Item.objects.using("stock").aget(pk=1)


async def under_asgi(queries: int) -> None:
    """Be a request of Django's: as its ASGI handler begins and ends it."""
    from asgiref.sync import ThreadSensitiveContext, sync_to_async
    from django.db import close_old_connections

    async with ThreadSensitiveContext():
        await shared(queries)
        await sync_to_async(close_old_connections)()


def in_sync(times: int) -> float:
    """Return the CPU of one synchronous query, in microseconds."""
    from tests.app.models import Item

    with quiet():
        started = process_time()
        for _ in range(times):
            Item.objects.get(pk=1)
        return (process_time() - started) / times * 1e6


@contextmanager
def quiet() -> Iterator[None]:
    """Have no garbage collected meanwhile."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def one_at_a_time(request: Callable[[int], Awaitable[object]], times: int) -> float:
    """Return the CPU of one query, in microseconds."""
    with quiet():
        started = process_time()
        for _ in range(times):
            await request(1)
        return (process_time() - started) / times * 1e6


async def at_once(request: Callable[[int], Awaitable[object]], tasks: int) -> tuple[float, ...]:
    """Return the CPU of one request in microseconds, requests a second, and the most threads."""
    most, over = 0, threading.Event()

    async def look() -> None:
        nonlocal most
        while not over.is_set():
            most = max(most, threading.active_count())
            await asyncio.sleep(0.005)

    looking = asyncio.create_task(look())
    with quiet():
        cpu, wall = process_time(), perf_counter()
        await asyncio.gather(*(request(QUERIES) for _ in range(tasks)))
        cpu, wall = process_time() - cpu, perf_counter() - wall
    over.set()
    await looking
    return cpu / tasks * 1e6, tasks / wall, most


def queries(run: Callable[[Any], Any], rounds: int, times: int) -> list[Row]:
    """Return the first table."""
    works: dict[str, Callable[[], float]] = {
        SYNC: lambda: in_sync(times),
        OURS: lambda: run(one_at_a_time(on_loop, times)),
        DJANGO: lambda: run(one_at_a_time(under_asgi, times)),
        SHARED: lambda: run(one_at_a_time(shared, times)),
    }
    found: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds + 1):
        for name, work in works.items():
            cpu = work()
            if number:  # the first warms up
                found[name].append(cpu)
    return [
        {"contestant": name, "cpu": statistics.median(cpus), "least": min(cpus)}
        for name, cpus in found.items()
    ]


def crowds(run: Callable[[Any], Any], rounds: int, sizes: Iterable[int]) -> list[Row]:
    """Return the second table."""
    rows = []
    for tasks in sizes:
        found: dict[str, list[tuple[float, ...]]] = {OURS: [], DJANGO: []}
        for number in range(rounds + 1):
            ours, theirs = run(at_once(on_loop, tasks)), run(at_once(under_asgi, tasks))
            if number:  # the first connects
                found[OURS].append(ours)
                found[DJANGO].append(theirs)
        for name, several in found.items():
            cpu, rate, threads = (list(each) for each in zip(*several, strict=True))
            rows.append(
                {
                    "contestant": name,
                    "tasks": tasks,
                    "cpu": statistics.median(cpu),
                    "requests/s": statistics.median(rate),
                    "threads": max(threads),
                }
            )
    return rows


def shown(rows: list[Row]) -> str:
    """Return rows as text, in columns."""
    lines = [[*rows[0]]]
    for row in rows:
        lines.append([v if isinstance(v, str) else f"{v:,.0f}" for v in row.values()])
    return "\n".join(
        "  ".join(f"{cell:<22}" if n == 0 else f"{cell:>10}" for n, cell in enumerate(line))
        for line in lines
    )


def ratios(first: list[Row], second: list[Row]) -> Iterator[str]:
    """Yield what the figures come to."""
    for kind in ("cpu", "least"):
        us = {row["contestant"]: row[kind] for row in first}
        yield (
            f"{kind}: ours takes {us[OURS] / us[SYNC]:.2f} x the sync call, "
            f"{us[OURS] / us[DJANGO]:.2f} x Django's under ASGI, "
            f"{us[OURS] / us[SHARED]:.2f} x Django's on one thread"
        )
    for ours, theirs in zip(second[::2], second[1::2], strict=True):
        yield (
            f"{ours['tasks']} tasks: ours takes {ours['cpu'] / theirs['cpu']:.2f} x the CPU of "
            f"Django's, and serves {ours['requests/s'] / theirs['requests/s']:.2f} x as many"
        )


def main(arguments: list[str] | None = None) -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=READING, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--queries", type=int, default=200, help="of each round")
    parser.add_argument("--tasks", type=int, nargs="+", default=[50, 500])
    parser.add_argument("--uvloop", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    if options.uvloop:
        import uvloop

        factory = uvloop.new_event_loop
    with Cluster() as cluster:
        configure(cluster.primary)
        with table(cluster.primary), asyncio.Runner(loop_factory=factory) as runner:
            first = queries(runner.run, options.rounds, options.queries)
            second = crowds(runner.run, max(1, options.rounds // 4), options.tasks)
            runner.run(ended())
    if options.json:
        json.dump({"queries": first, "crowds": second}, sys.stdout)
        return
    print(shown(first), shown(second), sep="\n\n", end="\n\n")
    print(*ratios(first, second), sep="\n")


async def ended() -> None:
    """Give back what the one thread of all has."""
    from asgiref.sync import sync_to_async
    from django.db import connections

    await sync_to_async(connections.close_all)()


if __name__ == "__main__":
    main()

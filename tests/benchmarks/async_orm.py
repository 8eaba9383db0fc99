"""What Django's async ORM costs, on the event loop and on threads: one run, side by side.

Measures the CPU that the process takes, all its threads together, for a query and for requests of
three queries that many tasks make at once. It starts a server of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import process_time
from typing import Any

import django
from django.conf import settings

from django_poolkit.testing import Cluster, Node
from tests.benchmarks.async_measure import at_once, one_at_a_time, quiet
from tests.benchmarks.peers import Contestant, Unavailable, Worker, interpreter_of

SYNC = "sync, pooled"
ONE_CALL = "ours, in one call"
OURS = "ours, on the loop"
DJANGO = "Django's, under ASGI"
SHARED = "Django's, one thread"
NATIVE = "django-async-backend"

READING = f"""
contestants:
  {SYNC}          Model.objects.get() in a thread, on our pool in transaction mode
  {ONE_CALL}     the same get(), all of them in one bridged() call: what is more than in a
                        thread is the wait on the loop
  {OURS}     Model.objects.aget() with POOLKIT["ASYNC_ORM"], on the same pool: a call
                        for each, which has a database wrapper of its own
  {DJANGO}  the same as Django has it, on its own engine and pool: a thread context for
                        each request, closed with its connections at the request's end
  {SHARED}  the same without such a context: one thread for all of them
  {NATIVE}  its aget(), on psycopg's AsyncConnectionPool, in a process and an environment of its
                        own; a task's connection goes back at its request's end

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
CONNECTIONS = 10
POOL = {"min_size": 1, "max_size": CONNECTIONS, "timeout": 60.0}


def configure(node: Node) -> None:
    """Set Django up with two ways to one database, and the ORM on the loop for ours."""
    entry = node.django_settings()
    ours = {
        "ENGINE": "django_poolkit.backends.postgresql",
        "OPTIONS": {"pool": {**POOL, "mode": "transaction"}},
    }
    stock = {"ENGINE": "django.db.backends.postgresql", "OPTIONS": {"pool": POOL}}
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


async def in_one_call(times: int) -> float:
    """Return the same of synchronous queries that are in the bridge together."""
    from django_poolkit.aio import bridged

    return await bridged(in_sync)(times)


@contextmanager
def native(node: Node, loop: str, *, fetch: bool) -> Iterator[Worker | None]:
    """Have django-async-backend take part; say why where it cannot."""
    contestant = Contestant(
        NATIVE,
        "django_async_backend.db.backends.postgresql",
        settings={"LOOP": loop},
        options={"pool": POOL},
        package="django-async-backend uvloop",
    )
    with ExitStack() as stack:
        try:
            python = interpreter_of(contestant, fetch=fetch)
            script = Path(__file__).with_name("async_orm_worker.py")
            worker = Worker(contestant, python, node, script)
            stack.callback(worker.close)
            worker.ask(do="queries", times=1)
        except Unavailable as reason:
            print(f"without {NATIVE}: {reason}", file=sys.stderr)
            worker = None
        yield worker


def queries(run: Callable[[Any], Any], rounds: int, times: int, worker: Worker | None) -> list[Row]:
    """Return the first table."""
    works: dict[str, Callable[[], float]] = {
        SYNC: lambda: in_sync(times),
        ONE_CALL: lambda: run(in_one_call(times)),
        OURS: lambda: run(one_at_a_time(on_loop, times)),
        DJANGO: lambda: run(one_at_a_time(under_asgi, times)),
        SHARED: lambda: run(one_at_a_time(shared, times)),
    }
    if worker is not None:
        works[NATIVE] = lambda: float(worker.ask(do="queries", times=times)["found"])
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


def crowds(
    run: Callable[[Any], Any], rounds: int, sizes: Iterable[int], worker: Worker | None
) -> list[Row]:
    """Return the second table."""
    rows = []
    works: dict[str, Callable[[int], tuple[float, ...]]] = {
        OURS: lambda tasks: run(at_once(on_loop, tasks)),
        DJANGO: lambda tasks: run(at_once(under_asgi, tasks)),
    }
    if worker is not None:
        works[NATIVE] = lambda tasks: tuple(worker.ask(do="crowd", tasks=tasks)["found"])
    for tasks in sizes:
        found: dict[str, list[tuple[float, ...]]] = {name: [] for name in works}
        for number in range(rounds + 1):
            for name, work in works.items():
                figures = work(tasks)
                if number:  # the first connects
                    found[name].append(figures)
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
        others = ", ".join(
            f"{us[OURS] / us[name]:.2f} x {of}"
            for name, of in (
                (SYNC, "the sync call"),
                (ONE_CALL, "the same in one call"),
                (DJANGO, "Django's under ASGI"),
                (SHARED, "Django's on one thread"),
                (NATIVE, NATIVE),
            )
            if name in us
        )
        yield f"{kind}: ours takes {others}"
    ours = {row["tasks"]: row for row in second if row["contestant"] == OURS}
    for row in second:
        if row["contestant"] != OURS:
            mine = ours[row["tasks"]]
            yield (
                f"{row['tasks']} tasks: ours takes {mine['cpu'] / row['cpu']:.2f} x the CPU of "
                f"{row['contestant']}, and serves {mine['requests/s'] / row['requests/s']:.2f} x "
                "as many"
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
    parser.add_argument("--no-fetch", action="store_true", help="have pip fetch nothing")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    if options.uvloop:
        import uvloop

        factory = uvloop.new_event_loop
    with Cluster() as cluster:
        configure(cluster.primary)
        with (
            table(cluster.primary),
            native(
                cluster.primary,
                "uvloop" if options.uvloop else "asyncio",
                fetch=not options.no_fetch,
            ) as worker,
            asyncio.Runner(loop_factory=factory) as runner,
        ):
            first = queries(runner.run, options.rounds, options.queries, worker)
            second = crowds(runner.run, max(1, options.rounds // 4), options.tasks, worker)
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

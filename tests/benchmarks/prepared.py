"""Where prepared statements help, and where they do not: the same queries with and without.

By kind of query: by its key, over many tables, with lists of alike and of changing length, with a
large result, writes. And how often a statement has to be run on a connection until it pays.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter, thread_time
from typing import Any, Final, NamedTuple

import django
from django.conf import settings

from django_poolkit.testing import Cluster, Node
from tests.benchmarks.figures import Row, number, summed
from tests.benchmarks.statement import apart

PLAIN: Final = "plain"
BOUND: Final = "bound on the server"
PREPARED: Final = "prepared"
ALIASES: Final = {PLAIN: "default", BOUND: "bound", PREPARED: "prepared"}
RUNS: Final = (1, 3, 5, 6, 10, 20, 50, 100)

READING: Final = f"""
contestants:
  {PLAIN:22} parameters are put into the text by the client, as Django has it
  {BOUND:22} Django's server_side_binding alone: parsed and planned each time
  {PREPARED:22} pool: {{"prepare": True}}: bound there, and prepared after five runs

All on our pool in session mode, and on one connection each.

how to read the tables:
  The first: the contestants take turns in short rounds; of those the median with the lowest and
  the highest, in microseconds by the clock ("wall"), of the client's CPU ("cpu"), and of the CPU of
  the server's process ("server", on Linux). "to plain" is the ratio of the times by the clock.
  The second: on a new connection a query over five tables is run so many times; the same figures,
  for the mean of these runs, connecting not counted. It pays from where {PREPARED} is below.
  The third: what the server holds for a statement, in KiB of each connection's process.

examples:
  python -m tests.benchmarks.prepared                       a minute
  python -m tests.benchmarks.prepared --rounds 60           for figures that are to be quoted
  python -m tests.benchmarks.prepared --json > run.json     the same rows, for another program
"""

Query = Callable[[str], object]


def configure(node: Node) -> None:
    """Set Django up with an alias for each contestant."""
    entry = {"ENGINE": "django_poolkit.backends.postgresql", **node.django_settings()}
    options: dict[str, dict[str, Any]] = {
        "default": {"pool": {"max_size": 2}},
        "bound": {
            "pool": {"max_size": 2}, "server_side_binding": True, "prepare_threshold": None,
        },
        "prepared": {"pool": {"max_size": 2, "prepare": True}},
    }  # fmt: skip
    settings.configure(
        USE_TZ=True,
        INSTALLED_APPS=["django_poolkit"],
        DATABASES={alias: {**entry, "OPTIONS": found} for alias, found in options.items()},
        POOLKIT={"CONTROL": {"ENABLED": False}},
        LOGGING_CONFIG=None,
    )
    django.setup()


def queries() -> Iterator[tuple[str, int, Query]]:
    """Provide the kinds of query: their name, how often in a round, and what is run."""
    from django.db.models import Count, Sum

    from tests.benchmarks.prepared_models import COUNTS, Sale

    dice = random.Random(7)
    sales = Sale._default_manager

    def key() -> int:
        return dice.randint(1, COUNTS["sale"])

    def keys(count: int) -> list[int]:
        return [key() for _ in range(count)]

    path = "shop__city__country__region"
    yield "one row by its key", 40, lambda alias: sales.using(alias).get(pk=key())
    yield (
        "one row, five tables joined", 20,
        lambda alias: sales.using(alias).select_related(path).get(pk=key()),
    )  # fmt: skip
    yield (
        "IN, always 10 keys", 20,
        lambda alias: list(sales.using(alias).filter(pk__in=keys(10))),
    )  # fmt: skip
    yield (
        "IN, 1 to 200 keys", 20,
        lambda alias: list(sales.using(alias).filter(pk__in=keys(dice.randint(1, 200)))),
    )  # fmt: skip
    yield (
        "a rare value of a column", 20,
        lambda alias: list(sales.using(alias).filter(state="returned").values_list("pk")),
    )  # fmt: skip
    yield (
        "sums over five tables", 2,
        lambda alias: list(sales.using(alias).values(path).annotate(Sum("amount"), Count("pk"))),
    )  # fmt: skip
    yield "5,000 rows", 2, lambda alias: list(sales.using(alias).all()[:5_000])
    yield (
        "an update by key", 20,
        lambda alias: sales.using(alias).filter(pk=key()).update(amount=dice.randint(0, 99)),
    )  # fmt: skip
    yield (
        "an insert", 20,
        lambda alias: sales.using(alias).create(shop_id=1, amount=1, state="sold"),
    )  # fmt: skip


class Times(NamedTuple):
    """What a query takes, in microseconds."""

    wall: float
    cpu: float
    """Of the client."""
    server: float | None
    """The CPU of the server's process, None where the system does not say."""


def _timed(query: Query, alias: str, times: int, server: Path | None = None) -> Times:
    there = _cpu_of(server)
    wall, cpu = perf_counter(), thread_time()
    for _ in range(times):
        query(alias)
    cpu, wall = thread_time() - cpu, perf_counter() - wall
    since = None if there is None else ((_cpu_of(server) or there) - there) / times * 1e6
    return Times(wall / times * 1e6, cpu / times * 1e6, since)


def _cpu_of(server: Path | None) -> float | None:
    """Return the seconds that a process of the server has computed (proc(5): in nanoseconds)."""
    if server is None or not server.exists():
        return None
    return int(server.read_text().split()[0]) / 1e9


def _server_of(alias: str) -> Path:
    """Return where Linux says what the server's process of a connection has computed."""
    from django.db import connections

    with connections[alias].cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        [pid] = cursor.fetchone()
    return Path("/proc") / str(pid) / "schedstat"


def kinds(rounds: int) -> Iterator[Row]:
    """Let the contestants take turns with each kind of query."""
    servers = {name: _server_of(alias) for name, alias in ALIASES.items()}
    for measure, times, query in queries():
        found: dict[str, list[Times]] = {name: [] for name in ALIASES}
        for number_of_round in range(rounds + 1):
            for name in random.sample([*ALIASES], len(ALIASES)):
                # The first warms up, and prepares: that takes five runs.
                often = times if number_of_round else max(times, 8)
                figures = _timed(query, ALIASES[name], often, servers[name])
                if number_of_round:
                    found[name].append(figures)
        base = summed([each.wall for each in found[PLAIN]], "wall")["wall"]
        for name, several in found.items():
            row: dict[str, Any] = {"measure": measure, "contestant": name}
            for key in ("wall", "cpu", "server"):
                row |= summed([getattr(each, key) for each in several], key)
            yield row | {"to_plain": row["wall"] / base}


def first_runs(rounds: int) -> Iterator[Row]:
    """Run a statement on new connections, a few times and many times."""
    from tests.benchmarks.prepared_models import COUNTS, Sale

    path = "shop__city__country__region"

    def query(alias: str) -> object:
        key = random.randint(1, COUNTS["sale"])
        return Sale._default_manager.using(alias).select_related(path).get(pk=key)

    found: dict[tuple[int, str], list[Times]] = {
        (runs, name): [] for runs in RUNS for name in (PLAIN, PREPARED)
    }
    for _ in range(rounds):
        for name in random.sample((PLAIN, PREPARED), 2):
            for runs in RUNS:
                server = _renewed(ALIASES[name])
                found[runs, name].append(_timed(query, ALIASES[name], runs, server))
    for (runs, name), several in found.items():
        row: dict[str, Any] = {"runs": runs, "contestant": name}
        row |= summed([each.wall for each in several], "wall")
        yield row | summed([each.server for each in several], "server")


def _renewed(alias: str) -> Path:
    """Have a new connection of the server; return where that process's CPU is."""
    from django.db import connections

    connection: Any = connections[alias]
    connection.close()
    connection.close_pool()
    return _server_of(alias)


def held() -> Iterator[Row]:
    """Say what the server holds for each kind of statement, as its own view has it."""
    from django.db import connections

    connection = connections[ALIASES[PREPARED]]
    for measure, _, query in queries():
        if measure == "IN, 1 to 200 keys":
            continue  # several statements, none of which comes back
        _renewed(ALIASES[PREPARED])
        for _ in range(12):
            query(ALIASES[PREPARED])
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT sum(total_bytes) / 1024.0 FROM pg_backend_memory_contexts"
                " WHERE name LIKE 'CachedPlan%' AND ident NOT LIKE '%pg_backend_memory%'"
            )
            [kib] = cursor.fetchone()
        yield {"measure": measure, "contestant": PREPARED, "kib": float(kib or 0)}


def show(found: dict[str, list[Row]]) -> str:
    """Return the three tables."""
    lines = [f"{'':30} {'':20} {'wall, µs':>26} {'CPU, µs':>10} {'server':>10} to plain"]
    for row in found["kinds"]:
        wall = f"{number(row['wall'])} ({number(row['wall_low'])}-{number(row['wall_high'])})"
        lines.append(
            f"{row['measure']:30} {row['contestant']:20} {wall:>26} {number(row['cpu']):>10}"
            f" {number(row['server']):>10} {row['to_plain']:8.2f}"
        )
    lines += ["", f"{'runs':30} {'':20} {'wall':>26} {'server':>10}"]
    for row in found["first"]:
        lines.append(
            f"{row['runs']:<30} {row['contestant']:20} {number(row['wall']):>26}"
            f" {number(row['server']):>10}"
        )
    lines += ["", f"{'held by the server':30} {'':20} {'KiB':>26}"]
    lines += [f"{row['measure']:51} {number(row['kib']):>26}" for row in found["held"]]
    return "\n".join(lines)


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.prepared",
        description=__doc__,
        epilog=READING,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    parser.add_argument("--rounds", type=int, default=20, help="of each kind of query (20)")
    options = parser.parse_args(arguments)
    if options.rounds <= 0:
        parser.error("--rounds has to be above 0")
    return options


def main(arguments: list[str] | None = None) -> None:
    """Measure, and print."""
    options = parsed(arguments)
    with Cluster() as cluster, apart(cluster.primary.pid):
        configure(cluster.primary)
        from django_poolkit import registry
        from tests.benchmarks.prepared_models import fill

        fill()
        try:
            found = {
                "kinds": list(kinds(options.rounds)),
                "first": list(first_runs(max(3, options.rounds // 3))),
                "held": list(held()),
            }
        finally:
            registry.pools.close_all()
    if options.json:
        json.dump(found, sys.stdout)
    else:
        print(show(found))


if __name__ == "__main__":
    main()

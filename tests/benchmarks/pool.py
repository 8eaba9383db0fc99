"""Our pool beside psycopg_pool and Django's own: `python -m tests.benchmarks.pool [--json]`.

Starts a server, lets the contenders take turns in short rounds, so that the machine's other work
hits all of them alike, and prints the median of each and its ratio to ours. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from time import monotonic, perf_counter
from typing import Any

import django
import psycopg
import psycopg_pool
from django.conf import settings

from django_poolkit.pools.postgres import ConnectionPool
from django_poolkit.testing import Cluster, Node
from tests.benchmarks.statement import apart

SIZE = 8
OURS = "django_poolkit"
Row = dict[str, Any]
Cycle = Callable[[], object]


def alternate(contenders: dict[str, Cycle], rounds: int) -> dict[str, list[Any]]:
    """Call each in turn, `rounds` times over; the first round is a warm-up and not counted."""
    results: dict[str, list[Any]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, measure in contenders.items():
            result = measure()
            if number:
                results[name].append(result)
    return results


def timed(cycle: Cycle, times: int) -> Cycle:
    """Return a measure of one `cycle`, in microseconds."""

    def measure() -> float:
        started = perf_counter()
        for _ in range(times):
            cycle()
        return (perf_counter() - started) / times * 1e6

    return measure


def rows(title: str, unit: str, results: dict[str, list[float]], **more: Any) -> Iterator[Row]:
    medians = {name: statistics.median(values) for name, values in results.items()}
    ours = medians[OURS]
    for name, median in medians.items():
        spread = (min(results[name]), max(results[name]))
        yield {
            "measure": title, "contender": name, "median": median, "unit": unit,
            "low": spread[0], "high": spread[1], "ratio": median / ours,
        } | {key: values[name] for key, values in more.items()}  # fmt: skip


# -- the pools by themselves


@contextmanager
def pools(node: Node) -> Iterator[dict[str, Any]]:
    """Open one pool of each kind, full and idle, on connections in autocommit."""
    # Prepared statements are off in ours, and would hide what is measured.
    kwargs = node.conninfo() | {"autocommit": True, "prepare_threshold": None}
    options: dict[str, Any] = {"kwargs": kwargs}
    with ExitStack() as stack:
        opened: dict[str, Any] = {
            OURS: ConnectionPool(max_size=SIZE, timeout=30.0, **options),
            "psycopg_pool": psycopg_pool.ConnectionPool(
                min_size=SIZE, max_size=SIZE, open=False, **options
            ),
            "psycopg_pool, check": psycopg_pool.ConnectionPool(
                min_size=SIZE,
                max_size=SIZE,
                open=False,
                check=psycopg_pool.ConnectionPool.check_connection,
                **options,
            ),
        }
        for pool in opened.values():
            stack.callback(pool.close)
            pool.open()
            fill(pool)
        yield opened


def fill(pool: Any) -> None:
    connections = [pool.getconn() for _ in range(SIZE)]
    for connection in connections:
        connection.execute("SELECT 1")
        pool.putconn(connection)


def cycle_of(pool: Any, query: str | None = None) -> Cycle:
    """Return acquire and release, by the names that the pool itself prefers."""
    if isinstance(pool, ConnectionPool):

        def ours() -> None:
            lease = pool.acquire()
            if query:
                lease.connection.execute(query)
            lease.release()

        return ours

    def theirs() -> None:
        connection = pool.getconn()
        if query:
            connection.execute(query)
        pool.putconn(connection)

    return theirs


def uncontended(node: Node, rounds: int) -> Iterator[Row]:
    with pools(node) as opened:
        for title, query, times in (
            ("acquire and release", None, 3000),
            ("the same with SELECT 1", "SELECT 1", 1000),
        ):
            cycles = {name: timed(cycle_of(pool, query), times) for name, pool in opened.items()}
            if query is None:
                pool = opened[OURS]
                both = timed(lambda: pool.putconn(pool.getconn()), times)  # noqa: B023
                cycles[f"{OURS}, getconn and putconn"] = both
            yield from rows(title, "µs", alternate(cycles, rounds))


def crowd(pool: Any, query: str | None, threads: int, seconds: float) -> tuple[float, float]:
    """Return operations a second, and Jain's index of the threads' shares."""
    cycle = cycle_of(pool, query)
    counts = [0] * threads
    begin = threading.Barrier(threads + 1)

    def work(index: int) -> None:
        begin.wait()
        end = monotonic() + seconds
        while monotonic() < end:
            cycle()
            counts[index] += 1

    workers = [threading.Thread(target=work, args=(index,)) for index in range(threads)]
    for worker in workers:
        worker.start()
    begin.wait()
    started = monotonic()
    for worker in workers:
        worker.join()
    squares = sum(count * count for count in counts)
    return sum(counts) / (monotonic() - started), sum(counts) ** 2 / (threads * squares)


def contended(node: Node, rounds: int) -> Iterator[Row]:
    queries = (("acquire and release", None), ("SELECT 1", "SELECT 1"))
    with pools(node) as opened:
        for (what, query), threads in itertools.product(queries, (8, 16, 64)):
            measures: dict[str, Cycle] = {
                name: partial(crowd, pool, query, threads, 1.0) for name, pool in opened.items()
            }
            results = alternate(measures, rounds)
            rates = {name: [rate for rate, _ in values] for name, values in results.items()}
            fair = {name: min(jain for _, jain in values) for name, values in results.items()}
            title = f"{what}, {threads} threads on {SIZE}"
            yield from rows(title, "per s", rates, jain=fair)


# -- through Django


def configure(node: Node) -> None:
    base = {"ENGINE": "django.db.backends.postgresql", **node.django_settings()}
    pool = {"max_size": SIZE}
    settings.configure(
        USE_TZ=True,
        INSTALLED_APPS=["django_poolkit", "tests.app"],
        DATABASES={
            "default": base
            | {"ENGINE": "django_poolkit.backends.postgresql", "OPTIONS": {"pool": pool}},
            "django": base | {"OPTIONS": {"pool": {"min_size": 1, **pool}}},
            "checked": base
            | {"OPTIONS": {"pool": {"min_size": 1, **pool}}, "CONN_HEALTH_CHECKS": True},
            "kept": base | {"CONN_MAX_AGE": None},
        },
    )
    django.setup()


def request_cycle(node: Node, rounds: int) -> Iterator[Row]:
    from django.db import connections

    from tests.app.models import Item

    with connections["kept"].schema_editor() as editor:
        editor.create_model(Item)

    names = {
        "default": OURS,
        "django": "Django's pool",
        "checked": "Django's pool, health checks",
        "kept": "CONN_MAX_AGE=None",
    }

    def nothing(alias: str) -> None:
        connections[alias].ensure_connection()

    def orm(alias: str) -> None:
        Item.objects.using(alias).filter(pk=1).exists()

    def raw(alias: str) -> None:
        with connections[alias].cursor() as cursor:
            cursor.execute("SELECT 1 FROM app_item WHERE id = 1")

    def cycle(alias: str, view: Callable[[str], None]) -> Cycle:
        connection = connections[alias]

        def request() -> None:
            # What Django does at the start and at the end of a request.
            connection.close_if_unusable_or_obsolete()
            view(alias)
            connection.close_if_unusable_or_obsolete()

        return request

    for title, view, times in (
        ("request without a query", nothing, 1000),
        ("request with a query of the ORM", orm, 300),
        ("request with a query of the view's", raw, 300),
    ):
        cycles = {name: timed(cycle(alias, view), times) for alias, name in names.items()}
        yield from rows(title, "µs", alternate(cycles, rounds))
    for connection in connections.all():
        connection.close()
        if hasattr(connection, "close_pool") and connection.settings_dict["OPTIONS"].get("pool"):
            connection.close_pool()


# -- after the loss of all backends


def recovery(node: Node, bound: float) -> Iterator[Row]:
    """Let a lone client come after all idle backends were killed; give up after `bound` s."""
    check = psycopg_pool.ConnectionPool.check_connection
    for count in (4, SIZE):
        results: dict[str, list[float]] = {OURS: [], "psycopg_pool, check": []}
        for name, found in results.items():
            options: dict[str, Any] = {"kwargs": node.conninfo() | {"application_name": "lost"}}
            pool: Any
            if name == OURS:
                pool = ConnectionPool(max_size=count, timeout=bound, **options)
            else:
                pool = psycopg_pool.ConnectionPool(
                    min_size=count, max_size=count, timeout=bound, check=check, open=True, **options
                )
            with pool:
                for _ in range(5 if name == OURS else 1):
                    held = [pool.getconn() for _ in range(count)]
                    for connection in held:
                        pool.putconn(connection)
                    node.kill_backends("lost")
                    started = monotonic()
                    try:
                        with pool.connection() as connection:
                            connection.execute("SELECT 1")
                        found.append(monotonic() - started)
                    except psycopg.OperationalError:
                        found.append(float("inf"))
        yield from rows(f"served after {count} idle ones were killed", "s", results)


def show(row: Row) -> str:
    infinite = row["median"] == float("inf")
    value = "gave up" if infinite else f"{row['median']:,.{4 if row['unit'] == 's' else 1}f}"
    ratio = "" if infinite else f"{row['ratio']:.2f}"
    jain = f"{row['jain']:.4f}" if "jain" in row else ""
    return (
        f"{row['measure']:40} {row['contender']:32} {value:>12} {row['unit']:6} {ratio:>8} {jain}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.pool", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    parser.add_argument("--rounds", type=int, default=9, help="rounds of each contender")
    parser.add_argument("--bound", type=float, default=12.0, help="patience after a kill, seconds")
    options = parser.parse_args()
    found: list[Row] = []
    with Cluster() as cluster, apart(cluster.primary.pid):
        node = cluster.primary
        configure(node)
        if not options.json:
            print(f"Python {sys.version.split()[0]}, Django {django.__version__}")
            print(f"{'':40} {'':32} {'median':>12} {'':6} {'to ours':>8} least Jain index")
        for part in (
            uncontended(node, options.rounds),
            contended(node, max(1, options.rounds // 3)),
            request_cycle(node, options.rounds),
            recovery(node, options.bound),
        ):
            for row in part:
                found.append(row)
                if not options.json:
                    print(show(row), flush=True)
    if options.json:
        # JSON knows no infinity: who gave up has no number.
        print(
            json.dumps([{k: None if v == float("inf") else v for k, v in r.items()} for r in found])
        )


if __name__ == "__main__":
    main()

"""What the CPU of a request goes into, by layer: the ORM, Django's wrapper, the pool, the driver.

A request with one query in one thread, profiled. A profiler makes each call dearer, so what it says
is taken as shares, of what the same request costs without it.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import thread_time
from typing import Any, Final

import django
from django.conf import settings

from django_poolkit.testing import Cluster, Node
from tests.benchmarks.figures import Row, number, summed
from tests.benchmarks.statement import apart

TOTAL: Final = "all of it"
TRIES: Final = 50
OTHERS: Final = "Python's own, and the rest"
LAYERS: Final = (
    ("the ORM", ("django/db/models",)),
    ("Django's wrapper of the driver", ("django/db",)),
    ("django_poolkit", ("django_poolkit",)),
    ("psycopg_pool", ("psycopg_pool",)),
    ("psycopg, with its C", ("psycopg",)),
    ("the rest of Django", ("django/", "asgiref/")),
)
"""The first that fits; by the path of the file, or the name of what is no Python."""

READING: Final = """
contestants:
  CONN_MAX_AGE=None, Django's pool and the same with health checks; ours in session mode, in
  transaction mode, and in that with prepare

how to read the table:
  Microseconds of this thread's CPU for one request, the median of the rounds: what Django does as a
  request begins, a get() by key, and what Django does as it ends. "all of it" is measured without
  the profiler; the layers are their shares in the profile, of that. The server's CPU is in none.

examples:
  python -m tests.benchmarks.layers                     some seconds
  python -m tests.benchmarks.layers --json > run.json   the same rows, for another program
"""


def configure(node: Node) -> dict[str, str]:
    """Set Django up with an alias for each contestant; return their names by alias."""
    stock, ours = "django.db.backends.postgresql", "django_poolkit.backends.postgresql"
    pool: dict[str, Any] = {"min_size": 2, "max_size": 2}
    statement = {**pool, "mode": "transaction"}
    found: dict[str, tuple[str, dict[str, Any]]] = {
        "default": ("CONN_MAX_AGE=None", {"ENGINE": stock, "CONN_MAX_AGE": None}),
        "django": ("Django's pool", {"ENGINE": stock, "OPTIONS": {"pool": pool}}),
        "checked": (
            "Django's pool, health checks",
            {"ENGINE": stock, "OPTIONS": {"pool": pool}, "CONN_HEALTH_CHECKS": True},
        ),
        "session": ("ours, session", {"ENGINE": ours, "OPTIONS": {"pool": pool}}),
        "transaction": ("ours, transaction", {"ENGINE": ours, "OPTIONS": {"pool": statement}}),
        "prepared": (
            "ours, transaction, prepare",
            {"ENGINE": ours, "OPTIONS": {"pool": {**statement, "prepare": True}}},
        ),
    }
    settings.configure(
        USE_TZ=True,
        INSTALLED_APPS=["django_poolkit", "tests.app"],
        DATABASES={alias: node.django_settings() | more for alias, (_, more) in found.items()},
        POOLKIT={"CONTROL": {"ENABLED": False}},
        LOGGING_CONFIG=None,
    )
    django.setup()
    return {alias: name for alias, (name, _) in found.items()}


@contextmanager
def table() -> Iterator[None]:
    """Have a row to get, and the pools closed afterwards."""
    from django.db import connections

    from tests.app.models import Item

    with connections["default"].schema_editor() as editor:
        editor.create_model(Item)
    Item.objects.create(pk=1, name="the one")
    try:
        yield
    finally:
        for alias in connections:
            connection: Any = connections[alias]
            connection.close()
            if connection.settings_dict["OPTIONS"].get("pool"):
                connection.close_pool()


def request_of(alias: str) -> Callable[[], None]:
    """Return what Django does in a request with a query."""
    from django.db import connections

    from tests.app.models import Item

    connection, manager = connections[alias], Item.objects.using(alias)

    def request() -> None:
        connection.close_if_unusable_or_obsolete()
        manager.get(pk=1)
        connection.close_if_unusable_or_obsolete()

    return request


def profiled(request: Callable[[], None], times: int) -> dict[str, float]:
    """Return each layer's share of the CPU, as the profiler has it.

    Raises RuntimeError where other threads were in it time and again.
    """
    for _ in range(TRIES):
        profile = cProfile.Profile(thread_time)
        profile.enable()
        for _ in range(times):
            request()
        profile.disable()
        shares: dict[str, float] = {}
        stats: Any = pstats.Stats(profile)
        own_times = {key: value[2] for key, value in stats.stats.items()}
        # Since Python 3.12 the profiler hears of the calls of all threads. What one of a pool's has
        # done is measured by two clocks then, and is below nothing for one of them.
        if min(own_times.values()) < 0:
            continue
        for (path, _, name), own in own_times.items():
            layer = layer_of(path, name)
            shares[layer] = shares.get(layer, 0.0) + own
        total = sum(shares.values())
        return {layer: own / total for layer, own in shares.items()}
    raise RuntimeError(f"other threads were in the profile, {TRIES} times")


def layer_of(path: str, name: str) -> str:
    """Return to which layer a function belongs. What is no Python has no path."""
    place = path.replace("\\", "/").rpartition("/site-packages/")[2] if path != "~" else name
    if "django_poolkit/" in place or "django_poolkit." in place:
        return "django_poolkit"
    for layer, beginnings in LAYERS:
        if any(each in place for each in beginnings):
            return layer
    return OTHERS


def measure(names: dict[str, str], rounds: int, times: int) -> Iterator[Row]:
    """Let the contestants take turns; provide a row for each of them and each layer."""
    found: dict[str, list[float]] = {alias: [] for alias in names}
    requests = {alias: request_of(alias) for alias in names}
    for number_of_round in range(rounds + 1):
        for alias, request in requests.items():
            started = thread_time()
            for _ in range(times):
                request()
            if number_of_round:  # the first warms up
                found[alias].append((thread_time() - started) / times * 1e6)
    for alias, name in names.items():
        total: Row = {"layer": TOTAL, "contestant": name, **summed(found[alias], "us")}
        yield total
        shares = profiled(requests[alias], times)
        for layer in (*(layer for layer, _ in LAYERS), OTHERS):
            us = shares.get(layer, 0.0) * total["us"]
            yield {"layer": layer, "contestant": name, "us": us}


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.layers",
        description=__doc__,
        epilog=READING,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    parser.add_argument("--rounds", type=int, default=15, help="of each (15)")
    parser.add_argument("--times", type=int, default=200, help="that a round has (200)")
    options = parser.parse_args(arguments)
    if min(options.rounds, options.times) <= 0:
        parser.error("--rounds and --times have to be above 0")
    return options


def main(arguments: list[str] | None = None) -> None:
    """Measure, and print."""
    options = parsed(arguments)
    with Cluster() as cluster, apart(cluster.primary.pid):
        names = configure(cluster.primary)
        with table():
            rows = list(measure(names, options.rounds, options.times))
    if options.json:
        json.dump(rows, sys.stdout)
        return
    for row in rows:
        print(f"{row['contestant']:30} {row['layer']:32} {number(row['us']):>8}")


if __name__ == "__main__":
    main()

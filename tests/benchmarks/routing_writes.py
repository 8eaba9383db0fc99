"""What it costs to know where a write has ended, and who has it: one run, side by side.

Each row is one unit of work on a real primary and a real replica on this machine. Those of a kind
take turns, so what else the machine does disturbs them alike.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import django
from django.conf import settings

from django_poolkit.testing import Cluster

READING = """
what is done:
  a commit, not asked     atomic() with an UPDATE of one row, where nobody asks where it ended
  a commit, asked         the same in a scope, with its position
  a commit, asked after   the same, with a statement of its own for the position, as others do it
  autocommit, not asked   an UPDATE of one row by itself
  autocommit, asked       the same in a scope, with its position at the end
  arriving, known         to settle a scope whose replica is known to have what must be seen
  arriving, asks          to settle one whose replica has to be asked

how to read the table:
  Median of the rounds in microseconds and, in brackets, the quickest tenth. Loopback: a network
  adds its round trip to each statement, so to "a commit, asked after" one more than to "asked".

examples:
  python -m tests.benchmarks.routing_writes
  python -m tests.benchmarks.routing_writes --rounds 2000
  python -m tests.benchmarks.routing_writes --json > run.json
"""

Work = Callable[[], object]


def configure(cluster: Cluster) -> None:
    """Lead Django to a cluster."""
    entry = {
        "ENGINE": "django_poolkit.backends.postgresql",
        "OPTIONS": {"pool": {"mode": "transaction", "max_size": 4}},
    }
    settings.configure(
        INSTALLED_APPS=["django_poolkit", "tests.app"],
        DATABASES={
            "default": {**cluster.primary.django_settings(), **entry},
            "replica": {**cluster.replicas[0].django_settings(), **entry},
        },
        DATABASE_ROUTERS=["django_poolkit.routing.ReadWriteRouter"],
        # Long enough to be asked at leisure: what is measured is what it takes.
        POOLKIT={"CLUSTERS": {"default": {"replicas": ["replica"]}}, "ROUTING": {"WAIT": 5}},
        LOGGING_CONFIG=None,
    )
    django.setup()


@contextmanager
def unasked() -> Iterator[None]:
    """Have nobody ask where a commit has ended."""
    from django_poolkit.backends import ports

    before, ports.ask_commit = ports.ask_commit, None
    try:
        yield
    finally:
        ports.ask_commit = before


def works(cluster: Cluster) -> dict[str, Work]:
    """Return what is done, by name. Each returns the seconds that it took."""
    from django.db import connection, transaction

    from django_poolkit.routing import scope
    from django_poolkit.routing.outgoing import outgoing
    from django_poolkit.routing.scopes import Scope
    from django_poolkit.routing.settling import settle

    def update() -> None:
        with connection.cursor() as cursor:
            cursor.execute("UPDATE counter SET n = n + 1")

    def commit() -> None:
        with transaction.atomic():
            update()

    def commit_and_ask() -> None:
        commit()
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_current_wal_insert_lsn()")
            cursor.fetchone()

    def timed(work: Work) -> float:
        started = perf_counter()
        work()
        return perf_counter() - started

    def not_asked(work: Work) -> float:
        with unasked(), scope():
            return timed(work)

    def asked() -> float:
        with scope():
            return timed(commit)

    def lone_asked() -> float:
        with scope() as here:

            def update_and_ask() -> None:
                update()
                outgoing(here)

            return timed(update_and_ask)

    def arriving(known: bool) -> float:
        with scope() as here:
            commit()
            floors = outgoing(here)
        cluster.primary.wait_caught_up(cluster.replicas[0])
        if known:
            one = Scope()
            one.floors.update(floors)
            settle(one)
        other = Scope()
        other.floors.update(floors)
        took = timed(lambda: settle(other))
        assert other.settled["default"].hosts
        return took

    return {
        "a commit, not asked": lambda: not_asked(commit),
        "a commit, asked": asked,
        "a commit, asked after": lambda: not_asked(commit_and_ask),
        "autocommit, not asked": lambda: not_asked(update),
        "autocommit, asked": lone_asked,
        "arriving, known": lambda: arriving(True),
        "arriving, asks": lambda: arriving(False),
    }


def measure(cluster: Cluster, rounds: int) -> list[dict[str, Any]]:
    """Do everything in turns; return a row for each."""
    done = works(cluster)
    found: dict[str, list[float]] = {name: [] for name in done}
    for number in range(rounds + 5):
        for name in random.sample(list(done), len(done)):
            took: Any = done[name]()
            if number >= 5:  # the first ones connect
                found[name].append(took * 1e6)
    return [
        {
            "work": name,
            "median": statistics.median(each),
            "quick": sorted(each)[len(each) // 10],
            "rounds": len(each),
        }
        for name, each in found.items()
    ]


def main(arguments: list[str] | None = None) -> int:
    """Measure and print. Returns 0."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.routing_writes",
        description=__doc__,
        epilog=READING,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=300, help="rounds, of all (default: 300)")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error("--rounds must be above 0")
    with Cluster(replicas=1) as cluster:
        cluster.primary.execute("CREATE TABLE counter (n int); INSERT INTO counter VALUES (0)")
        configure(cluster)
        started = time.monotonic()
        rows = measure(cluster, options.rounds)
        seconds = time.monotonic() - started
        from django.db import connections

        connections.close_all()
    if options.json:
        print(json.dumps(rows, indent=2))
    else:
        print(f"{'':22} us (quickest tenth), of {options.rounds} rounds in {seconds:.0f} s")
        for row in rows:
            print(f"{row['work']:22} {row['median']:7.0f} ({row['quick']:.0f})")
    return 0


if __name__ == "__main__":
    sys.exit(main())

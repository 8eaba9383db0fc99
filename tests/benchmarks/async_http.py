"""Async views over HTTP: Django's own async ORM, and ours with and without threads, side by side.

uvicorn in one process, on uvloop; clients, supplier and PostgreSQL in processes of their own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from django_poolkit.testing import Cluster, Node
from example_project.flood import Ground, run
from example_project.limits import LimitTooLow, raise_file_limit
from example_project.processes import ChildFailed
from example_project.serving import upstream
from example_project.waves import (
    CONNECTIONS,
    PATIENCE,
    SUPPLIER_CONNECTIONS,
    UPSTREAM_SECONDS,
    Outcome,
    Wave,
)

THEIRS: Final = "Django's own"
THREADS: Final = "ours, threads"
DATABASE: Final = "contest"
LOOP: Final = "ours, on the loop"
VIEWS: Final = {
    "no query": "",
    "one query": "one/",
    "three queries": "three/",
    f"two around {UPSTREAM_SECONDS * 1000:g} ms": "around/",
}

READING: Final = f"""
contestants:
  {THEIRS:19} Django's engine, pool and handler: a thread for each request that queries
  {THREADS:19} django_poolkit in transaction mode, its async ORM left to Django's threads
  {LOOP:19} the same with POOLKIT["ASYNC_ORM"] = {{"ENABLED": True}}

All pools have {CONNECTIONS} connections and timeout={PATIENCE:g}. No middleware.

how to read the table:
  So many clients ask again and again, each on a connection of its own. For each view and number
  of clients the contestants come one after the other, each with a new server process; of several
  rounds the medians are shown. "CPU" is what the server's process computed for a request, in
  milliseconds, "to Django" its ratio to Django's own in the same row's group, "requests/s" all
  that were answered well, from the first client's start to the last one's end, "p99" in
  milliseconds, "threads" and "MiB" the most that the process had, "conns" the most connections
  that PostgreSQL saw. Compare figures of one run, and trust CPU most: the cores are shared by the
  server, the clients, the supplier and PostgreSQL.
  Who needs a thread a request is left out where that would be more than --threads-up-to.

examples:
  python -m tests.benchmarks.async_http                        ten minutes or so
  python -m tests.benchmarks.async_http --short                a minute or two, for a first look
  python -m tests.benchmarks.async_http --clients 200 --rounds 5
  python -m tests.benchmarks.async_http --json > run.json      the same rows, for another program
"""

Row = dict[str, Any]


@dataclass(frozen=True)
class Contestant:
    """Who takes part: its engine, and the kit's settings if it has any."""

    name: str
    engine: str
    poolkit: dict[str, Any] | None
    pool: dict[str, Any] | None = field(default_factory=dict)
    """What its pool has beside what all have; None without a pool."""
    threads: bool = True
    """Whether a request that queries takes a thread."""
    settings: dict[str, Any] = field(default_factory=dict)
    app: str = ""
    """Of another's that it needs, and where that is found."""
    folder: Path | None = None

    def variables(self, node: Node, supplier: str) -> dict[str, str]:
        """Return what its site is told."""
        pool = {"min_size": CONNECTIONS, "max_size": CONNECTIONS, "timeout": PATIENCE}
        entry = {
            **node.django_settings(),
            **self.settings,
            "ENGINE": self.engine,
            "NAME": DATABASE,
            "OPTIONS": {} if self.pool is None else {"pool": {**pool, **self.pool}},
        }
        found = {"CONTEST_DATABASE": json.dumps(entry), "SHOP_UPSTREAM_URL": supplier}
        if self.folder is not None:
            found |= {"CONTEST_APP": self.app, "PYTHONPATH": str(self.folder)}
        return (
            found
            if self.poolkit is None
            else {**found, "CONTEST_POOLKIT": json.dumps(self.poolkit)}
        )


def contestants() -> list[Contestant]:
    """Return all of them."""
    ours, transaction = "django_poolkit.backends.postgresql", {"mode": "transaction"}
    enabled = {"ASYNC_ORM": {"ENABLED": True}}
    return [
        Contestant(THEIRS, "django.db.backends.postgresql", None),
        Contestant(THREADS, ours, {}, transaction),
        Contestant(LOOP, ours, enabled, transaction, threads=False),
    ]


def takers(
    clients: int, options: argparse.Namespace, everyone: Sequence[Contestant] | None = None
) -> list[Contestant]:
    """Return who takes part with so many clients."""
    few = clients <= options.threads_up_to
    return [one for one in everyone or contestants() if few or not one.threads]


def measure(
    options: argparse.Namespace, node: Node, home: Path, everyone: Sequence[Contestant]
) -> Iterator[list[Row]]:
    """Let the contestants take turns; provide the rows of each view and number of clients."""
    with upstream(home, UPSTREAM_SECONDS) as supplier:
        for clients in options.clients:
            for view in options.views:
                taking_part = takers(clients, options, everyone)
                found: dict[str, list[Outcome]] = {one.name: [] for one in taking_part}
                for _ in range(options.rounds):
                    for one in taking_part:
                        ground = Ground(
                            node=node,
                            database=DATABASE,
                            supplier=supplier,
                            variables=one.variables(node, supplier),
                            home=home,
                        )
                        wave = _wave(clients, VIEWS[view])
                        try:
                            outcome = run(ground, wave, options.seconds, _quiet)
                        except (ChildFailed, OSError) as error:  # the others go on
                            print(f"without {one.name}: {error}", file=sys.stderr)
                            continue
                        found[one.name].append(outcome)
                yield rows(view, clients, found)


def _wave(clients: int, page: str) -> Wave:
    application = "tests.benchmarks.async_http_site:application"
    return Wave("contest", "", clients, {}, page, application)


def _quiet(line: str) -> None:
    """Say nothing: the table does."""


def rows(view: str, clients: int, found: dict[str, list[Outcome]]) -> list[Row]:
    """Sum up the rounds of each contestant."""
    summed = []
    for name, outcomes in found.items():
        if not outcomes:
            continue

        def median(value: Callable[[Outcome], float], of: Sequence[Outcome] = outcomes) -> float:
            return statistics.median(value(outcome) for outcome in of)

        summed.append(
            {
                "view": view,
                "clients": clients,
                "contestant": name,
                "requests": sum(outcome.report["requests"] for outcome in outcomes),
                "failed": sum(outcome.failed for outcome in outcomes),
                "throughput": median(lambda outcome: outcome.report["throughput"]),
                "p99": median(lambda outcome: outcome.report["p99"]),
                "cpu": median(lambda outcome: outcome.cpu_each),
                "threads": max(outcome.threads for outcome in outcomes),
                "memory": max(outcome.memory for outcome in outcomes),
                "connections": max(outcome.connections for outcome in outcomes),
            }
        )
    base = next((row["cpu"] for row in summed if row["contestant"] == THEIRS), None)
    return [row | {"to_django": row["cpu"] / base if base else None} for row in summed]


HEAD: Final = (
    f"{'':16} {'clients':>7} {'':18} {'CPU':>6} {'to Django':>9} {'requests/s':>10} {'p99':>7}"
    f" {'threads':>7} {'MiB':>5} {'conns':>5} {'failed':>6}"
)


def show(row: Row) -> str:
    """Return a row of the table."""
    ratio = f"{row['to_django']:.2f}" if row["to_django"] else "-"
    return (
        f"{row['view']:16} {row['clients']:7,} {row['contestant']:18} {row['cpu'] * 1000:6.2f}"
        f" {ratio:>9} {row['throughput']:10,.0f} {row['p99'] * 1000:7,.0f} {row['threads']:7,}"
        f" {row['memory'] / 2**20:5,.0f} {row['connections']:5} {row['failed']:6,}"
    )


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.async_http",
        description=__doc__,
        epilog=READING,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    parser.add_argument(
        "--clients", type=int, nargs="+", default=[200, 1_000, 10_000],
        help="how many ask at once (200 1000 10000)",
    )  # fmt: skip
    parser.add_argument(
        "--seconds", type=float, default=8.0, help="for which all of them ask on (8)"
    )
    parser.add_argument("--rounds", type=int, default=1, help="of each (1)")
    parser.add_argument(
        "--threads-up-to", type=int, default=1_000, help="clients of who takes threads (1000)"
    )
    parser.add_argument(
        "--views", nargs="+", choices=list(VIEWS), default=list(VIEWS), metavar="VIEW",
        help=f"of {', '.join(VIEWS)} (all)",
    )  # fmt: skip
    parser.add_argument(
        "--short", action="store_true", help="100 and 500 clients, for a second each"
    )
    options = parser.parse_args(arguments)
    if options.short:
        options.clients, options.seconds, options.rounds = [100, 500], 1.0, 1
    if min(options.clients) < 1 or max(options.clients) > 20_000:
        parser.error("--clients: each has to be within 1 and 20000")
    if options.rounds < 1 or not 0 < options.seconds < 3_600:
        parser.error("--rounds has to be 1 or more, and --seconds above 0 and below an hour")
    return options


def contest(options: argparse.Namespace, everyone: Sequence[Contestant]) -> Iterator[list[Row]]:
    """Have a server started and let the contestants take turns; provide their rows."""
    try:
        raise_file_limit(max(options.clients) + SUPPLIER_CONNECTIONS + CONNECTIONS)
    except LimitTooLow as error:
        sys.exit(f"error: {error}")
    with Cluster() as cluster, tempfile.TemporaryDirectory(prefix="poolkit-contest-") as home:
        node = cluster.primary
        # Of its own: who watches its connections is not among them.
        node.create_database(DATABASE)
        with node.connect(dbname=DATABASE, autocommit=True) as connection:
            connection.execute("CREATE TABLE contest_thing (id bigint PRIMARY KEY, name text)")
            connection.execute("INSERT INTO contest_thing VALUES (1, 'the one')")
        yield from measure(options, node, Path(home), everyone)


def main(arguments: list[str] | None = None) -> None:
    """Run the contest that the command line asks for, and print it."""
    options = parsed(arguments)
    found: list[Row] = []
    if not options.json:
        print(HEAD, flush=True)
    for group in contest(options, contestants()):
        found += group
        if not options.json:
            print("\n".join(map(show, group)), flush=True)
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()

"""What sites answer on each pool, in the manner of TechEmpower: one run, side by side.

One row, 20 queries, the page of fortunes, 5 updates, and plain text as the ceiling: in sync views
under gunicorn's threads, in async ones under uvicorn. One process each, in an environment of its
own; PostgreSQL and the clients run beside.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from django_poolkit.testing import Cluster, Node
from example_project.measures import Measures
from example_project.processes import ChildFailed
from example_project.sampling import Sampler
from example_project.vitals import Watch
from tests.benchmarks.figures import Row, number
from tests.benchmarks.peers import SIZE, Unavailable
from tests.benchmarks.web_client import Load, ask, find_wrk
from tests.benchmarks.web_servers import (
    GUNICORN,
    LOOP,
    THREADS,
    UVICORN,
    Site,
    entries,
    fill,
    serve,
    tools,
)

TESTS: Final = ("plaintext", "db", "queries", "fortunes", "updates")
SERVERS: Final = (GUNICORN, UVICORN)

READING: Final = f"""
tests:
  plaintext   no query: what the server and Django can do at most
  db          one row by its key; queries: 20 of them, one by one
  fortunes    12 rows and one more, sorted, in an HTML page that escapes them
  updates     5 rows read one by one, changed, and written by one statement

contestants:
  {GUNICORN}    one worker with {THREADS} threads; those of tests.benchmarks.failure --help; ours in
              transaction mode also with prepare; and psycopg without an ORM, as the floor
  {UVICORN}     one process, on uvloop where there is one; Django's async ORM without a pool and on
              Django's pool; django-async-backend's; ours in transaction mode with Django's threads
              and "{LOOP}", also with prepare; and asyncpg without an ORM, as the floor
Pools have {SIZE} connections. Without one each thread has its own, at the price of a connect for
each request where they are not kept.

how to read the table:
  All sites run from the beginning on; they are asked in turns, in an order that is drawn anew each
  round, each by --clients that ask again and again for --seconds. Of the rounds the median is
  shown: "req/s" are those that were answered well, "CPU" the milliseconds that the server's process
  computed for one, "p50" and "p99" milliseconds as a client sees them; "MiB", "thr." and "conns"
  the most that the process had, and that PostgreSQL saw. "to held" is the ratio of req/s to
  CONN_MAX_AGE=None, in async views to Django's pool. The cores are shared with PostgreSQL and the
  clients, so trust CPU most. Compare within a test and a server.
  The clients are wrk where that is on PATH, else a Python program: its own CPU is the bound then of
  what many cores could do.

exit code:
  0 if each request to ours was answered well, 1 if not. No time is judged.

examples:
  python -m tests.benchmarks.web                             some ten minutes
  python -m tests.benchmarks.web --long                      more and longer rounds
  python -m tests.benchmarks.web --tests db --servers {UVICORN} --rounds 5
  python -m tests.benchmarks.web --json > run.json           the same rows, for another program
"""

Found = dict[str, Any]


def sites(options: argparse.Namespace, node: Node, home: Path, stack: ExitStack) -> Iterator[Site]:
    """Provide the sites that can be had; say who is missing, and why."""
    fill(node)
    tools(home / "tools")
    for index, entry in enumerate(entries(options.patience)):
        if entry.server not in options.servers or options.only not in entry.contestant.name:
            continue
        try:
            site = serve(entry, index, node, home, fetch=not options.no_fetch)
            yield stack.enter_context(site)
        except Unavailable as reason:
            say(f"without {entry.contestant.name} under {entry.server}: {reason}")


def say(line: str) -> None:
    """Tell how far it is."""
    print(line, file=sys.stderr, flush=True)


def asked(site: Site, test: str, node: Node, home: Path, clients: int, seconds: float) -> Found:
    """Have a crowd ask a site for a page; return what came of it."""
    log = home / "clients.log"
    page = f"{site.kind}/{test}/"
    counted = Measures()
    with Watch(site.pid) as watch, Sampler(node, site.database, counted):
        load: Load = ask(site.url, page, clients, seconds, log)
    return {
        **load._asdict(),
        "cpu": watch.cpu / max(load.requests, 1),
        "memory": watch.memory,
        "threads": watch.threads,
        "connections": counted.peak_connections,
    }


def measure(options: argparse.Namespace, node: Node, home: Path) -> Iterator[list[Found]]:
    """Ask all sites in turns; provide the rows of each server and test."""
    with ExitStack() as stack:
        there = list(sites(options, node, home, stack))
        for server in options.servers:
            for test in options.tests:
                taking_part = [site for site in there if site.entry.server == server]
                if test == "plaintext" and options.short:
                    taking_part = [site for site in taking_part if site.entry.ceiling]
                found: dict[str, list[Found]] = {s.entry.contestant.name: [] for s in taking_part}
                for number_of_round in range(options.rounds + 1):
                    say(f"{server}, {test}, round {number_of_round} of {options.rounds}")
                    for site in random.sample(taking_part, len(taking_part)):
                        # The first warms up.
                        seconds = options.seconds if number_of_round else options.warm
                        try:
                            one = asked(site, test, node, home, options.clients, seconds)
                        except (ChildFailed, OSError) as error:  # the others go on
                            say(f"{site.entry.contestant.name} is lost: {error}")
                            continue
                        if number_of_round:
                            found[site.entry.contestant.name].append(one)
                yield rows(server, test, found)


def rows(server: str, test: str, found: dict[str, list[Found]]) -> list[Found]:
    """Sum up the rounds of each contestant."""
    summed: list[Found] = []
    for name, several in found.items():
        if not several:
            continue
        row: Found = {"test": f"{server}: {test}", "contestant": name, "rounds": len(several)}
        row |= {"server": server, "page": test}
        for key in ("throughput", "cpu", "p50", "p99"):
            values = [each[key] for each in several]
            row[key] = statistics.median(values)
            row[f"{key}_low"], row[f"{key}_high"] = min(values), max(values)
        for key in ("memory", "threads", "connections"):
            row[key] = max(each[key] for each in several)
        for key in ("requests", "failed"):
            row[key] = sum(each[key] for each in several)
        summed.append(row)
    return summed


BASES: Final = {GUNICORN: "CONN_MAX_AGE=None", UVICORN: "Django's pool"}
HEAD: Final = (
    f"{'':30} {'req/s':>24} {'to held':>7} {'CPU':>18} {'p50':>6} {'p99':>6} {'MiB':>5}"
    f" {'thr.':>5} {'conns':>5} {'failed':>6}"
)


def show(group: Sequence[Row]) -> str:
    """Return the rows of a test."""
    if not group:
        return ""
    test = group[0]["test"]
    base = BASES[test.partition(":")[0]]
    rate = next((row["throughput"] for row in group if row["contestant"] == base), None)
    lines = [test]
    for row in group:
        ratio = f"{row['throughput'] / rate:.2f}" if rate else "-"
        low, high = number(row["throughput_low"]), number(row["throughput_high"])
        least, most = (number(row[f"cpu_{end}"] * 1000) for end in ("low", "high"))
        answered = f"{number(row['throughput'])} ({low}-{high})"
        cpu = f"{number(row['cpu'] * 1000)} ({least}-{most})"
        lines.append(
            f"  {row['contestant']:28} {answered:>24} {ratio:>7} {cpu:>18}"
            f" {row['p50'] * 1000:6,.0f} {row['p99'] * 1000:6,.0f} {row['memory'] / 2**20:5,.0f}"
            f" {row['threads']:5} {row['connections']:5} {row['failed']:6,}"
        )
    return "\n".join(lines)


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.web",
        description=__doc__,
        epilog=READING,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    parser.add_argument("--tests", nargs="+", choices=TESTS, default=list(TESTS), help="(all)")
    parser.add_argument(
        "--servers", nargs="+", choices=SERVERS, default=list(SERVERS), help="(all)"
    )
    parser.add_argument("--clients", type=int, default=64, help="that ask at once (64)")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each round (2)")
    parser.add_argument("--rounds", type=int, default=3, help="of each that count (3)")
    parser.add_argument("--patience", type=float, default=30.0, help="of the pools, s (30)")
    parser.add_argument("--only", default="", help="contestants whose name has this in it")
    parser.add_argument("--long", action="store_true", help="seven rounds of 8 s")
    parser.add_argument(
        "--short",
        action="store_true",
        help="rounds of 1 s; plain text by some alone",
    )
    parser.add_argument("--no-fetch", action="store_true", help="have pip fetch nothing")
    options = parser.parse_args(arguments)
    if options.long:
        options.rounds, options.seconds = 7, 8.0
    elif options.short:
        options.rounds, options.seconds = 3, 1.0
    options.warm = min(options.seconds, 0.5) if options.short else options.seconds
    if min(options.clients, options.seconds, options.rounds, options.patience) <= 0:
        parser.error("--clients, --seconds, --rounds and --patience have to be above 0")
    if options.clients > 1_000:
        parser.error("--clients: 1000 at most; thousands are what tests.benchmarks.held is about")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, and return 1 where a request to ours failed, else 0."""
    options = parsed(arguments)
    found: list[Found] = []
    say(f"clients: {'wrk' if find_wrk() else 'Python, as there is no wrk on PATH'}")
    with (
        Cluster(settings={"max_connections": "300"}) as cluster,
        tempfile.TemporaryDirectory(prefix="poolkit-web-") as home,
    ):
        if not options.json:
            print(HEAD, flush=True)
        try:
            for group in measure(options, cluster.primary, Path(home)):
                found += group
                if not options.json:
                    print(show(group), flush=True)
        except KeyboardInterrupt:
            say("interrupted: these are the tests that came to their end")
        if options.json:  # before all sites are stopped: there may be no time for that
            print(json.dumps(found), flush=True)
    return 0 if answered(options, found) else 1


def answered(options: argparse.Namespace, found: Sequence[Row]) -> bool:
    """Return whether each request to ours was answered well, on each site."""
    well = {(row["test"], row["contestant"]) for row in found if not row["failed"]}
    return all(
        (f"{entry.server}: {test}", entry.contestant.name) in well
        for entry in entries(options.patience)
        for test in options.tests
        if entry.server in options.servers
        if entry.contestant.name.startswith("ours") and options.only in entry.contestant.name
    )


if __name__ == "__main__":
    sys.exit(main())

"""Connections held too long: two queries around a call of 0.1 s, and far more requests than those.

Async views on uvicorn in one process, with a pool of 20. Who holds a connection while somebody else
is asked can finish no more than 20 requests in each 0.1 s, however little the machine has to do.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from example_project.waves import CONNECTIONS, PATIENCE, UPSTREAM_SECONDS
from tests.benchmarks import async_http
from tests.benchmarks.async_http import LOOP, THREADS, VIEWS, Contestant
from tests.benchmarks.figures import Row
from tests.benchmarks.peers import Unavailable
from tests.benchmarks.web_servers import NATIVE, lent

NO_POOL: Final = "no pool"
POOL: Final = "Django's pool"
CHECKED: Final = "Django's pool, health checks"
AROUND: Final = list(VIEWS)[-1]
CLIENTS: Final = (200, 1_000)
LONG: Final = (200, 1_000, 5_000, 10_000)

READING: Final = f"""
contestants:
  {NO_POOL:29} Django's engine and handler, a connection for each request
  {POOL:29} Django's own, and with CONN_HEALTH_CHECKS
  {NATIVE.name:29} with its own async ORM, on psycopg's AsyncConnectionPool
  {THREADS:29} django_poolkit in transaction mode, its async ORM left to Django's threads
  {LOOP:29} the same with POOLKIT["ASYNC_ORM"] = {{"ENABLED": True}}

All pools have {CONNECTIONS} connections and timeout={PATIENCE:g}. The server gives no more than
100: without a pool, who comes then is refused. No middleware.

how to read the table:
  So many clients ask again and again, each on a connection of its own, for a page with a query,
  a call of an API that takes {UPSTREAM_SECONDS:g} s, and another query. "requests/s" are those
  that were answered well, from the first client's start to the last one's end, "to pool" their
  ratio to {POOL}, "p99" milliseconds, "failed" those that were not answered well, and
  "CPU" milliseconds that the server's process computed for one. For each number of clients the
  contestants come one after the other, each with a new process, in each round; the medians are
  shown. Who needs a thread a request is left out above --threads-up-to clients.

exit code:
  0 if each request to ours was answered well, 1 if not. No time is judged.

examples:
  python -m tests.benchmarks.held                   some minutes: 200 and 1,000 clients
  python -m tests.benchmarks.held --long            and 5,000 and 10,000
  python -m tests.benchmarks.held --json > run.json the same rows, for another program
"""


def contestants(native: Path | None = None) -> list[Contestant]:
    """Return all of them; django-async-backend only with the folder where it is."""
    stock = "django.db.backends.postgresql"
    theirs = Contestant(
        NATIVE.name, NATIVE.engine, None, threads=False, app="django_async_backend", folder=native
    )
    return [
        Contestant(NO_POOL, stock, None, pool=None),
        Contestant(POOL, stock, None),
        Contestant(CHECKED, stock, None, settings={"CONN_HEALTH_CHECKS": True}),
        *([theirs] if native else []),
        *(each for each in async_http.contestants() if each.name in (THREADS, LOOP)),
    ]


HEAD: Final = (
    f"{'clients':>7} {'':30} {'requests/s':>10} {'to pool':>7} {'p99':>8} {'failed':>7} {'CPU':>6}"
    f" {'threads':>7} {'MiB':>5} {'conns':>5}"
)


def show(group: Sequence[Row]) -> str:
    """Return the rows of a number of clients."""
    base = next((row["throughput"] for row in group if row["contestant"] == POOL), None)
    lines = []
    for row in group:
        ratio = f"{row['throughput'] / base:.2f}" if base else "-"
        lines.append(
            f"{row['clients']:7,} {row['contestant']:30} {row['throughput']:10,.0f} {ratio:>7}"
            f" {row['p99'] * 1000:8,.0f} {row['failed']:7,} {row['cpu'] * 1000:6.2f}"
            f" {row['threads']:7,} {row['memory'] / 2**20:5,.0f} {row['connections']:5}"
        )
    return "\n".join(lines)


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.held",
        description=__doc__,
        epilog=READING,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    parser.add_argument("--clients", type=int, nargs="+", help="at once (200 1000)")
    parser.add_argument("--seconds", type=float, default=6.0, help="for which all ask on (6)")
    parser.add_argument("--rounds", type=int, default=1, help="of each (1)")
    parser.add_argument(
        "--threads-up-to", type=int, default=1_000, help="clients of who takes threads (1000)"
    )
    parser.add_argument("--only", default="", help="contestants whose name has this in it")
    parser.add_argument("--no-fetch", action="store_true", help="have pip fetch nothing")
    parser.add_argument("--long", action="store_true", help="and 5,000 and 10,000; three rounds")
    options = parser.parse_args(arguments)
    if options.long:
        options.rounds = 3
    options.clients = options.clients or list(LONG if options.long else CLIENTS)
    options.views = [AROUND]
    if min(options.clients) < 1 or max(options.clients) > 20_000:
        parser.error("--clients: each has to be within 1 and 20000")
    if options.rounds < 1 or not 0 < options.seconds < 3_600:
        parser.error("--rounds has to be 1 or more, and --seconds above 0 and below an hour")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, and return 1 where a request to ours failed, else 0."""
    options = parsed(arguments)
    found: list[dict[str, Any]] = []
    out = sys.stderr if options.json else sys.stdout
    print(HEAD, file=out, flush=True)
    with tempfile.TemporaryDirectory(prefix="poolkit-held-") as home:
        native = None
        try:
            native = lent(NATIVE, Path(home), fetch=not options.no_fetch)
        except Unavailable as reason:
            print(f"without {NATIVE.name}: {reason}", file=out)
        taking_part = [each for each in contestants(native) if options.only in each.name]
        if not taking_part:
            sys.exit("error: --only: no contestant's name has this in it")
        try:
            for group in async_http.contest(options, taking_part):
                found += group
                print(show(group), file=out, flush=True)
        except KeyboardInterrupt:
            print("interrupted: these are those that came to their end", file=out)
    if options.json:
        print(json.dumps(found))
    return 0 if answered(options, taking_part, found) else 1


def answered(
    options: argparse.Namespace, taking_part: Sequence[Contestant], found: Sequence[Row]
) -> bool:
    """Return whether ours took part everywhere, and each request to them was answered well."""
    well = {(row["clients"], row["contestant"]) for row in found if not row["failed"]}
    return all(
        (clients, each.name) in well
        for clients in options.clients
        for each in async_http.takers(clients, options, taking_part)
        if each.name.startswith("ours")
    )


if __name__ == "__main__":
    sys.exit(main())

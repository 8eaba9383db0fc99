"""How much of the reads a replica serves to visitors who write, by how far it is behind.

A tenth of the visits begin with a write, and each write is followed by a look at what was written,
as a page that redirects has it. The same visitors go to the same site with different ways to keep
them from reading before their own write, all at once, on one primary and one replica.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from django_poolkit.testing import Cluster, Node
from tests.benchmarks.routing_visitors import PIN, WAYS

ROOT = Path(__file__).parents[2]
READING = f"""
what is compared:
  position   ours: the visitor's cookie says how far a replica must have come
  time       ours where no position can be had: the primary, for {PIN:g} s after a write
  multidb    django-multidb-router, its pin set to {PIN:g} s; only where that is installed

how to read the table:
  share    of the pages that were read, those that came from the replica
  stale    pages that were older than what their visitor had written; there must be none
  p50 p99  milliseconds in which half of the pages, and 99 of 100, were there
  Each visitor asks for a page every --think seconds, in the mean. A pin costs the less, the slower
  they are: of those who look once a minute it keeps nobody from the replica. The look that follows
  a write at once is what no replica can serve that is further behind than WAIT, 0.05 s.

examples:
  python -m tests.benchmarks.routing_share
  python -m tests.benchmarks.routing_share --think 0.2 --lags 0,10
  python -m tests.benchmarks.routing_share --seconds 60 --json > run.json
"""


def known_ways() -> list[str]:
    """Return the ways that there are here."""
    return [way for way in WAYS if way != "multidb" or importlib.util.find_spec("multidb")]


class Site:
    """The process of one way, with its visitors."""

    def __init__(self, way: str, cluster: Cluster, number: int, options: Any) -> None:
        self.way = way
        # A table for each: nobody waits for another's rows, or sees them.
        name = f"share{number}"
        cluster.primary.create_database(name)
        with cluster.primary.connect(dbname=name) as connection:
            connection.execute(
                "CREATE TABLE app_item (id serial PRIMARY KEY, name text, created timestamptz)"
            )
            connection.execute(
                "INSERT INTO app_item (name, created) SELECT '0', now()"
                " FROM generate_series(1, %s)",
                (options.visitors,),
            )
        replica: Node = cluster.replicas[0]
        cluster.primary.wait_caught_up(replica)
        entries = {
            "default": cluster.primary.django_settings(name),
            "replica": replica.django_settings(name),
        }
        command = [sys.executable, "-m", "tests.benchmarks.routing_visitors"]
        command += [way, str(options.visitors), str(options.think)]
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "ENTRIES": json.dumps(entries)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def wait_ready(self) -> None:
        """Block until the visitors are there."""
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":
            raise SystemExit(f"the site of {self.way!r} did not start")

    def take(self) -> list[dict[str, Any]]:
        """Return what each visitor met since this was asked last."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        found: list[dict[str, Any]] = json.loads(self._process.stdout.readline())
        return found

    def end(self) -> None:
        """Have the visitors leave. Blocks until they have."""
        self._process.communicate(timeout=60.0)


def measure(options: Any) -> Iterator[dict[str, Any]]:
    """Yield a row for each lag and way."""
    with Cluster(replicas=1) as cluster, ExitStack() as stack:
        sites = []
        for number, way in enumerate(known_ways()):
            site = Site(way, cluster, number, options)
            stack.callback(site.end)
            sites.append(site)
        for site in sites:
            site.wait_ready()
        time.sleep(options.warm_up)  # until who has written before, and who has not, are as ever
        replica = cluster.replicas[0]
        for lag in options.lags:
            replica.set("recovery_min_apply_delay", f"{lag}ms")
            cluster.primary.wait_caught_up(replica)
            for site in sites:
                site.take()  # what was met at another lag is gone
            time.sleep(options.seconds)
            for site in sites:
                yield summary(lag, site.way, site.take())


def summary(lag: int, way: str, found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the row of one way at one lag."""
    seconds = sorted(value for each in found for value in each["seconds"])
    pages = sum(each["pages"] for each in found)
    return {
        "lag": lag,
        "way": way,
        "pages": pages,
        "share": sum(each["from_replica"] for each in found) / pages if pages else 0.0,
        "stale": sum(each["stale"] for each in found),
        "p50": statistics.median(seconds) if seconds else 0.0,
        "p99": seconds[len(seconds) * 99 // 100] if seconds else 0.0,
    }


def parse(arguments: list[str] | None) -> Any:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.routing_share",
        description=__doc__,
        epilog=READING,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="of each lag (default: 10)")
    parser.add_argument("--warm-up", type=float, default=PIN, help="seconds (default: 5)")
    parser.add_argument("--visitors", type=int, default=40, help="of each way (default: 40)")
    parser.add_argument("--think", type=float, default=1.0, help="mean seconds (default: 1)")
    parser.add_argument("--lags", default="0,1,10,100", help="in ms (default: 0,1,10,100)")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    options = parser.parse_args(arguments)
    if min(options.seconds, options.visitors, options.think) <= 0 or options.warm_up < 0:
        parser.error("--seconds, --visitors and --think must be above 0")
    try:
        options.lags = [int(lag) for lag in options.lags.split(",")]
    except ValueError:
        parser.error("--lags must be whole milliseconds, as 0,10")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; return 1 if anybody has read before its own write, else 0."""
    options = parse(arguments)
    rows = []
    if not options.json:
        print(f"{'lag':>6}  {'':10} {'pages':>6} {'share':>6} {'stale':>6} {'p50':>6} {'p99':>6}")
    for row in measure(options):
        rows.append(row)
        if not options.json:
            print(
                f"{row['lag']:3} ms  {row['way']:10} {row['pages']:6,} {row['share']:6.1%}"
                f" {row['stale']:6} {row['p50'] * 1000:6.1f} {row['p99'] * 1000:6.1f}",
                flush=True,
            )
    if options.json:
        print(json.dumps(rows, indent=2))
    return 1 if any(row["stale"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())

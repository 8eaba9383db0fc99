"""What a pool costs as there is more of everything: pools, leases, waiters, hosts, processes.

Ours beside psycopg_pool in one run: the price of an acquire with its release, of a hand-over and of
`stats()`, and what a pool takes of memory and threads while nobody uses it. Then what processes
do to each other that share the connections of one server. It starts servers of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from django_poolkit.testing import Cluster, Node
from tests.benchmarks import scale_crowd, scale_fleet
from tests.benchmarks.figures import Row, number, summed
from tests.benchmarks.scale_one import OURS, THEIRS
from tests.benchmarks.scale_workers import workers

ROOT: Final = Path(__file__).parents[2]
POOLS: Final = (1, 10, 100, 300)
LEASES: Final = (1, 10, 100, 200)
THREADS: Final = (1, 10, 100, 500)
TASKS: Final = (1, 100, 1_000, 10_000)
HOSTS: Final = (1, 2, 8, 40)
WORKERS: Final = (1, 2, 4, 8)
REPLICAS: Final = (1, 2, 4, 8)
FLEET: Final = (10, 50, 100, 200, 500)
TRIAL: Final = 10.0
"""Seconds for which a small fleet is tried, each way."""

READING: Final = f"""
contestants:
  {OURS:12} django_poolkit's ConnectionPool
  {THEIRS:12} psycopg_pool's ConnectionPool, and its AsyncConnectionPool for tasks

how to read the table:
  "us" is microseconds: the median of the rounds and, in brackets, the least and the most.
  pools                so many pools are open in a process of their own, none with a connection but
                       one, which is acquired and released; "KiB" and "thr." are what one pool more
                       takes, from the difference to a process with one
  stats(), leases      a snapshot, and an acquire with its release, while so many connections of the
                       same pool are leased
  threads wait         so many threads, each with one acquire and release on a pool of one
                       connection that is taken: for each of them, from when that is given back
                       until all were served; and stats() while they wait
  tasks wait           the same by tasks of an event loop
  hosts                in a scope of its own, which of so many hosts of one alias is read
  workers              so many processes have leases with a statement at once on one server: for how
                       long the CPU is busy with one in each of them, and what all get done a second
  reads, looks         for how long it is busy with a read that the router sends to one of so many
                       real replicas, and with one look at all servers
  N connections        so many processes, each with a pool, want more connections than the server
                       has: the share of acquires in vain, the p99 of waits (a timeout is one), and
                       the connections it takes; simulated, and where it says "tried" for real;
                       beside it one PgBouncer in front, set as `pooladvise` says
  Each should be the same, or nearly, whatever the number is: compare down a column. Of the
  crowds, some is Python's own: theirs has it, too. Compare figures of one run.

exit code:
  0; no time is judged.

examples:
  python -m tests.benchmarks.scale                     some minutes
  python -m tests.benchmarks.scale --short             no more than 100 of anything, one of 1,000
  python -m tests.benchmarks.scale --json > run.json   the same rows, for another program
"""


def one_process(what: str, contestant: str, place: Any, *numbers: int) -> Row:
    """Have a process of its own measure; what was done before would be in the memory."""
    command = [sys.executable, "-m", "tests.benchmarks.scale_one", what, contestant]
    done = subprocess.run(
        [*command, *map(str, numbers)],
        input=json.dumps(place),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: Row = json.loads(done.stdout)
    return found


def pools(node: Node, counts: list[int], rounds: int) -> Iterator[Row]:
    """Provide what so many idle pools cost."""
    for count in counts:
        answers: dict[str, list[Row]] = {OURS: [], THEIRS: []}
        for _ in range(rounds):
            for name, found in answers.items():
                found.append(one_process("pools", name, node.conninfo(), count))
        for name, found in answers.items():
            row = {"of": "pools", "count": count, "contestant": name}
            row |= summed([each["us"] for each in found], "us")
            if count > 1:
                row |= summed([each["kib"] for each in found], "kib")
                row |= summed([each["threads"] for each in found], "threads")
            yield row


def leases(node: Node, counts: list[int], rounds: int) -> Iterator[Row]:
    """Provide what stats() and an acquire cost with so many leases."""
    for count in counts:
        ours = one_process("leases", OURS, node.conninfo(), count, rounds)
        theirs = one_process("leases", THEIRS, node.conninfo(), count, rounds)
        for of in ("acquire, leases", "stats(), leases"):
            for name, found in ((OURS, ours), (THEIRS, theirs)):
                row = {"of": of, "count": count, "contestant": name}
                yield row | summed(found[of], "us")


def waiting(node: Node, threads: list[int], tasks: list[int], rounds: int) -> Iterator[Row]:
    """Provide what a hand-over costs, and stats(), while so many wait."""
    for kind, counts in (("threads", threads), ("tasks", tasks)):
        for count in counts:
            found: dict[tuple[str, str], list[float]] = {}
            for _ in range(rounds):
                for name in (OURS, THEIRS):
                    if kind == "threads":
                        each, stats = scale_crowd.of_threads(name, node, count)
                    else:
                        each, stats = asyncio.run(scale_crowd.of_tasks(name, node, count))
                    found.setdefault((f"{kind} wait", name), []).append(each)
                    found.setdefault((f"stats(), {kind} wait", name), []).append(stats)
            for (of, name), values in sorted(found.items(), key=lambda item: item[0][0][::-1]):
                yield {"of": of, "count": count, "contestant": name, **summed(values, "us")}


def hosts(node: Node, counts: list[int], rounds: int) -> Iterator[Row]:
    """Provide what the choice among so many hosts costs."""
    for count in counts:
        found = one_process("hosts", OURS, node.conninfo(), count, rounds)
        yield {"of": "hosts", "count": count, "contestant": OURS, **summed(found["us"], "us")}


def replicas(counts: list[int], rounds: int) -> Iterator[Row]:
    """Provide what reads cost that are spread over so many real replicas."""
    if not counts:
        return
    with Cluster(max(counts)) as cluster:
        for count in counts:
            places = [node.django_settings() for node in cluster.nodes[: count + 1]]
            found = one_process("replicas", OURS, places, rounds)
            if found["met"] != count:
                raise RuntimeError(f"of {count} replicas {found['met']} were read")
            for of in ("reads", "looks"):
                row = {"of": f"{of}, replicas", "count": count, "contestant": OURS}
                yield row | summed(found[of], "us")


def fleet(node: Node, counts: list[int], seconds: float) -> Iterator[Row]:
    """Provide what so many processes are predicted to meet, and what a few really do."""
    yield from scale_fleet.simulated(counts)
    if counts:
        yield from scale_fleet.tried_rows(node, seconds)


HEAD: Final = f"{'':26} {'':>7} {'':12} {'us':>24} {'KiB':>9} {'thr.':>5}"


def show(row: Row) -> str:
    """Return a row of the table."""
    start = f"{row['of']:26} {row['count']:7,} {row['contestant']:12}"
    if "vain" in row:
        vain = f"{number(row['vain'])} % in vain, p99 {number(row['p99'])} s"
        return f"{start} {vain}, {row['connections']} connections"
    us = f"{number(row['us'])} ({number(row['us_low'])}-{number(row['us_high'])})"
    more = f" {number(row['kib']):>9} {number(row['threads']):>5}" if "kib" in row else ""
    if "leases" in row:
        more = f"  {number(row['leases'])} leases/s in all"
    return f"{start} {us:>24}{more}"


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.scale",
        description=__doc__,
        epilog=READING,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    parser.add_argument("--rounds", type=int, default=5, help="of each (5)")
    for name, usual in (
        ("pools", POOLS), ("leases", LEASES), ("threads", THREADS), ("tasks", TASKS),
        ("hosts", HOSTS), ("workers", WORKERS), ("replicas", REPLICAS), ("fleet", FLEET),
    ):  # fmt: skip
        parser.add_argument(
            f"--{name}", type=int, nargs="*", default=list(usual),
            help=f"how many ({' '.join(map(str, usual))}); none: not at all",
        )  # fmt: skip
    parser.add_argument(
        "--trial", type=float, default=TRIAL,
        help=f"seconds for which a small fleet is tried, each way ({TRIAL:g})",
    )  # fmt: skip
    parser.add_argument("--short", action="store_true", help="fewer of all, three rounds")
    options = parser.parse_args(arguments)
    if options.short:
        options.pools, options.leases, options.hosts = [1, 10, 50], [1, 10, 100], [1, 8, 40]
        options.threads, options.tasks, options.rounds = [1, 10, 100], [1, 100, 1_000], 3
        options.workers, options.replicas, options.fleet = [1, 4], [1, 2], [10, 100, 500]
        options.trial = 4.0
    _verify(parser, options)
    return options


def _verify(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    every = [*options.pools, *options.leases, *options.threads, *options.tasks, *options.hosts]
    every += [*options.workers, *options.replicas, *options.fleet]
    if options.rounds < 1 or min(every, default=1) < 1 or not options.trial > 0:
        parser.error("--rounds, --trial and each number have to be above 0")
    if max(options.leases, default=0) > 250 or max(options.hosts, default=0) > 40:
        parser.error("--leases: 250 at most, for each is a connection; --hosts: 40 at most")
    if max(options.workers, default=0) > 100 or max(options.replicas, default=0) > 8:
        parser.error("--workers: 100 at most, for each is a process; --replicas: 8 at most")


def measured(options: argparse.Namespace) -> Iterator[Row]:
    """Provide all rows, one after the other."""
    with Cluster(settings={"max_connections": "300"}) as cluster:
        node = cluster.primary
        yield from pools(node, options.pools, options.rounds)
        yield from leases(node, options.leases, options.rounds)
        yield from waiting(node, options.threads, options.tasks, options.rounds)
        yield from hosts(node, options.hosts, options.rounds)
        # Each of them is a start of Python: what takes longest here.
        yield from workers(node, options.workers, min(3, options.rounds))
        yield from fleet(node, options.fleet, options.trial)
    yield from replicas(options.replicas, options.rounds)


def main(arguments: list[str] | None = None) -> None:
    """Measure, and print."""
    options = parsed(arguments)
    # Where the rows are JSON, how far it is goes elsewhere.
    shown = sys.stderr if options.json else sys.stdout
    print(HEAD, file=shown, flush=True)
    found: list[Row] = []
    for row in measured(options):
        found.append(row)
        print(show(row), file=shown, flush=True)
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()

"""What it costs a busy site that somebody looks at its pools: throughput with and without.

Three workers of gunicorn serve requests as fast as they can, each with one statement, while a
second process asks all of them for their status, again and again. It starts a server of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from statistics import mean, median
from typing import Any

import django

from django_poolkit.conf.control import ControlConfig
from django_poolkit.control.client import ask_all
from django_poolkit.testing import Cluster
from tests.servers.client import Client
from tests.servers.project import Project, create_role
from tests.servers.serving import Site, serve

WORKERS = 3

READING = """
how to read it:
  Rounds without and with status calls take turns, so that whatever else the machine does hits
  both. "ratio" is what a round with serves over the mean of the two without beside it; "noise" is
  by how much two neighbours without differ. Of both it is the median. A ratio that differs from 1
  by less than the noise says nothing.
  Asking takes CPU, too: on a machine whose cores are all busy, that of the process that asks is
  in the ratio. "CPU of a call" is what one costs one worker, measured while nothing else runs.
  Compare ratios of one run, never figures of two.

examples:
  python -m tests.benchmarks.status                     two minutes: 1,000 calls in one of them
  python -m tests.benchmarks.status --calls 100         one or two calls a second
  python -m tests.benchmarks.status --json > run.json   the same figures, for another program
"""


def look(directory: Path, calls: int, seconds: float) -> int:
    """Ask all processes so many times, evenly over so many seconds; return how often it was."""
    config = ControlConfig(directory=directory, service="status")
    begun = time.monotonic()
    for number in range(calls):
        time.sleep(max(0.0, begun + number * seconds / calls - time.monotonic()))
        if time.monotonic() > begun + seconds:
            return number
        answers = ask_all(config, "status", {})
        assert len(answers) == WORKERS, answers
        assert all(answer.error is None for answer in answers), answers
    return calls


class Onlooker:
    """Looks from a process of its own, when it is told to."""

    def __init__(self, directory: Path) -> None:
        command = [sys.executable, "-m", "tests.benchmarks.status", "--look", str(directory)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.look(1, 1.0)

    def begin(self, calls: int, seconds: float) -> None:
        """Look for so long."""
        assert self._process.stdin
        self._process.stdin.write(f"{calls} {seconds}\n")
        self._process.stdin.flush()

    def end(self) -> int:
        """Return how often it was, once it is done."""
        assert self._process.stdout
        return int(self._process.stdout.readline())

    def look(self, calls: int, seconds: float) -> int:
        """Do both."""
        self.begin(calls, seconds)
        return self.end()

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def answer_lines(directory: Path) -> None:
    """Be the onlooker: for each line of the input look, and say how often it was."""
    for line in sys.stdin:
        calls, seconds = line.split()
        print(look(directory, int(calls), float(seconds)), flush=True)


async def throughput(client: Client, clients: int, seconds: float) -> float:
    """Return how many requests a second are answered, with so many clients that never pause."""
    until = time.monotonic() + seconds
    served = 0

    async def ask_on() -> None:
        nonlocal served
        while time.monotonic() < until:
            reply = await client.ask("/quick/")
            assert reply.status == 200, reply
            served += time.monotonic() < until

    await asyncio.gather(*(ask_on() for _ in range(clients)))
    return served / seconds


def cpu_seconds(pids: set[int]) -> float:
    """Return the CPU time that processes have used."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


@contextmanager
def site() -> Iterator[Site]:
    """Serve a project."""
    # Not in the temporary directory of the environment, whose name may be too long for a socket.
    with tempfile.TemporaryDirectory(dir="/tmp") as home, Cluster() as cluster:
        create_role(cluster.primary)
        pool = {"mode": "transaction", "max_size": 4}
        project = Project(Path(home), cluster.primary, pool, {}, {})
        try:
            with serve(project, "gthread", WORKERS, "--preload") as site:
                yield site
        finally:
            project.end()


def measure(site: Site, options: argparse.Namespace) -> dict[str, Any]:
    """Return all figures of a run."""
    workers = site.workers()
    onlooker = Onlooker(site.project.directory)
    try:

        def one() -> float:
            what = throughput(site.client, options.clients, options.seconds)
            return float(site.client.submit(what).result())

        one()  # a warm-up
        each = max(1, options.calls // options.rounds)
        before = cpu_seconds(workers)
        done = onlooker.look(each, options.seconds)
        spent = cpu_seconds(workers) - before
        found: dict[str, Any] = {"cpu_ms_of_call": spent / done / len(workers) * 1000}
        without, with_calls, calls = [one()], [], 0
        for _ in range(options.rounds):
            onlooker.begin(each, options.seconds)
            with_calls.append(one())
            calls += onlooker.end()
            without.append(one())
    finally:
        onlooker.close()
    around = list(pairwise(without))
    ratios = [rate / mean(beside) for rate, beside in zip(with_calls, around, strict=True)]
    return found | {
        "calls": calls,
        "calls_per_second": calls / options.rounds / options.seconds,
        "without": without,
        "with": with_calls,
        "ratio": median(ratios),
        "noise": median([abs(after / before - 1) for before, after in around]),
    }


def show(found: dict[str, Any]) -> str:
    """Return the figures for people."""
    lines = []
    for name in ("without", "with"):
        rates = found[name]
        low, middle, high = min(rates), median(rates), max(rates)
        lines.append(f"{name:8} {middle:8.1f} requests/s ({low:.1f}-{high:.1f})")
    rate = f"{found['calls_per_second']:.1f}/s"
    return "\n".join(
        (
            *lines,
            f"ratio    {found['ratio']:8.3f} at {found['calls']} status calls ({rate})",
            f"noise    {found['noise']:8.3f}",
            f"CPU of a call {found['cpu_ms_of_call']:.2f} ms a worker",
        )
    )


def main() -> None:
    """Measure what the command line asks for, and print it."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.status",
        description=__doc__,
        epilog=READING,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--calls", type=int, default=1000, help="status calls in all (1000)")
    parser.add_argument("--rounds", type=int, default=10, help="rounds of each kind (10)")
    parser.add_argument("--seconds", type=float, default=6.0, help="length of a round (6.0)")
    parser.add_argument("--clients", type=int, default=8, help="requests at once (8)")
    parser.add_argument("--look", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if min(options.calls, options.rounds, options.seconds, options.clients) <= 0:
        parser.error("all numbers have to be above 0")
    if options.look:
        answer_lines(options.look)
        return
    # Where the figures are JSON, what is said about them goes elsewhere.
    out = sys.stderr if options.json else sys.stdout
    print(f"Python {sys.version.split()[0]}, Django {django.__version__}", file=out, flush=True)
    with site() as serving:
        found = measure(serving, options)
    print(json.dumps(found) if options.json else show(found))


if __name__ == "__main__":
    main()

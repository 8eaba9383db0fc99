"""Ours beside the other pools for Django, each in a process and environment of its own.

What a request costs with no query, with one and with three; what threads get done that share few
connections; and how long the first request takes after all idle connections were killed.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from django_poolkit.testing import Cluster, Node
from tests.benchmarks.statement import apart

ROOT: Final = Path(__file__).parents[2]
ENVIRONMENTS: Final = ROOT / ".envs"
WORKER: Final = Path(__file__).with_name("peer_worker.py")
SIZE: Final = 8
MANY: Final = 64
WORK: Final = 0.005
"""Seconds that a statement keeps its connection busy where it is not to be a matter of CPU."""
HELD: Final = "CONN_MAX_AGE=None"
OURS: Final = "ours, session"

READING: Final = f"""
contestants:
  {HELD}            Django without a pool, a connection for each thread: the floor
  Django's pool                Django's own OPTIONS["pool"], and with CONN_HEALTH_CHECKS
  django-db-connection-pool    on SQLAlchemy's pool, which asks each connection first
  django-pg-real-pool          on Django's pool; gives back after each statement
  ours, session                django_poolkit, and with CONN_HEALTH_CHECKS
  ours, transaction            gives back after each statement

All pools have {SIZE} connections. The two packages are fetched with pip into .envs/ of the
checkout, with the Django and the psycopg that this program runs on; who cannot be had is left out.

how to read the table:
  The contestants take turns in short rounds, in an order that is drawn anew each time. A row shows
  the median of the rounds and, in brackets, the lowest and the highest, in microseconds of the
  client's CPU and of wall time for one request or statement. "to held" is the ratio of the CPU
  medians to {HELD}, "to ours" that to ours in session mode. Compare ratios of one run.
  "statements, no end" lets threads query without ever ending a request: {SIZE} threads that hold
  their connections, and {MANY} where the connection is given back after each statement. "of 5 ms"
  has the server sleep so long in each, so that the connections are what is scarce. "{MANY} thr."
  is what so many threads cost: who has no pool holds {MANY} connections there.
  "after a kill" is the first request after all idle connections were terminated, in milliseconds;
  those that failed are counted.

examples:
  python -m tests.benchmarks.peers                     some minutes
  python -m tests.benchmarks.peers --quick             does it run? a few seconds, no use as figures
  python -m tests.benchmarks.peers --only ours         contestants whose name has this in it
  python -m tests.benchmarks.peers --json > run.json   the same rows, for another program
"""

Row = dict[str, Any]


@dataclass(frozen=True)
class Contestant:
    """Who takes part: its settings, and what pip has to fetch for it."""

    name: str
    engine: str = "django.db.backends.postgresql"
    settings: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    package: str | None = None
    """One, or several with blanks between."""
    by_statement: bool = False

    def database(self, node: Node) -> dict[str, Any]:
        """Return its entry of DATABASES."""
        options = {**self.options, "application_name": self.slug}
        return {
            "ENGINE": self.engine,
            **node.django_settings(),
            **self.settings,
            "OPTIONS": options,
        }

    @property
    def slug(self) -> str:
        """Its name where blanks would not do; the server knows its connections by it."""
        return "".join(sign if sign.isalnum() else "-" for sign in self.name.lower())


def contestants(bound: float) -> list[Contestant]:
    """Return all of them; `bound` is their patience, in seconds."""
    ours = "django_poolkit.backends.postgresql"
    pool = {"pool": {"min_size": SIZE, "max_size": SIZE, "timeout": bound}}
    transaction = {"pool": {**pool["pool"], "mode": "transaction"}}
    checked = {"CONN_HEALTH_CHECKS": True}
    alchemy = {"POOL_OPTIONS": {"POOL_SIZE": SIZE, "MAX_OVERFLOW": 0, "TIMEOUT": bound}}
    return [
        Contestant(HELD, settings={"CONN_MAX_AGE": None}),
        Contestant("Django's pool", options=pool),
        Contestant("Django's pool, health checks", settings=checked, options=pool),
        Contestant(
            "django-db-connection-pool",
            "dj_db_conn_pool.backends.postgresql",
            settings=alchemy,
            package="django-db-connection-pool",
        ),
        Contestant(
            "django-pg-real-pool",
            "django_pg_real_pool",
            options=pool,
            package="django-pg-real-pool",
            by_statement=True,
        ),
        Contestant(OURS, ours, options=pool),
        Contestant("ours, session, health checks", ours, settings=checked, options=pool),
        Contestant("ours, transaction", ours, options=transaction, by_statement=True),
    ]


class Unavailable(Exception):
    """A contestant cannot take part; the text says why."""


def interpreter_of(contestant: Contestant, *, fetch: bool) -> str:
    """Return the Python of its environment; make that where it is not there. Blocks."""
    if contestant.package is None:
        return sys.executable
    kit = [f"{name}=={version(name)}" for name in ("django", "psycopg", "psycopg-pool")]
    binary = f"psycopg-binary=={version('psycopg-binary')}"
    pair = f"{sys.version_info[0]}.{sys.version_info[1]}-{version('django')}-{version('psycopg')}"
    home = ENVIRONMENTS / f"peer-{contestant.slug}-{pair}"
    python, whole = home / "bin" / "python", home / "whole"
    if not whole.exists():
        if not fetch:
            raise Unavailable("it is not installed, and --no-fetch was given")
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        for command in (
            [sys.executable, "-m", "venv", "--clear", str(home)],
            [*pip, *kit, binary, *contestant.package.split()],
        ):
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                said = (done.stderr.strip() or "?").splitlines()[-1]
                raise Unavailable(f"its environment cannot be made: {said}")
        whole.touch()
    return str(python)


class Worker:
    """A contestant's process."""

    def __init__(
        self, contestant: Contestant, python: str, node: Node, script: Path = WORKER
    ) -> None:
        self.contestant = contestant
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115 - pools complain after a kill
        # Ours is found in the checkout. The others see nothing of it.
        where = {"PYTHONPATH": str(ROOT)} if contestant.package is None else {}
        self._process = subprocess.Popen(
            [python, "-P", str(script), json.dumps(contestant.database(node))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            env={"PATH": "/usr/bin:/bin", **where},
        )

    def ask(self, **order: Any) -> Row:
        """Give an order and wait for the answer."""
        assert self._process.stdin
        assert self._process.stdout
        print(json.dumps(order), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._said.seek(0)
            raise Unavailable(f"it ended: {(self._said.read().strip() or '?').splitlines()[-1]}")
        found: Row = json.loads(line)
        return found

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()
        self._said.close()


def measures(scale: float) -> Iterator[tuple[str, dict[str, Any]]]:
    """Provide what is measured, and the order for it."""
    for statements, title in (
        (0, "acquire and release"),
        (1, "request, one query"),
        (3, "request, three queries"),
    ):
        for threads, times in ((1, 300), (8, 60), (64, 8)):
            if statements == 3 and threads > 1:
                continue
            shorter = max(1, round(times * scale / (4 if statements else 1)))
            order = {"do": "requests", "statements": statements, "threads": threads}
            yield f"{title}, {threads} thr.", {**order, "times": shorter}
    for sleep, title in ((0.0, "statements, no end"), (WORK, "statements of 5 ms, no end")):
        times = max(1, round((80 if sleep else 60) * scale))
        yield title, {"do": "statements", "times": times, "sleep": sleep}
    times = max(1, round(240 * scale / 8))
    yield "statements, 64 thr.", {"do": "statements", "times": times, "sleep": 0.0, "threads": MANY}


def order_for(contestant: Contestant, order: dict[str, Any]) -> dict[str, Any] | None:
    """Return the order as one contestant gets it, None where it cannot take part."""
    if order["do"] != "statements":
        return order
    if "threads" in order:  # more of them than connections, but for who has no pool
        return order if contestant.by_statement or contestant.name == HELD else None
    if contestant.by_statement:  # as many statements in all
        return {**order, "threads": MANY, "times": max(1, order["times"] * SIZE // MANY)}
    return {**order, "threads": SIZE}


def run(workers: list[Worker], rounds: int, scale: float) -> Iterator[Row]:
    """Let the contestants take turns; the first round of each measure is a warm-up."""
    for title, order in measures(scale) if rounds else ():
        orders = {worker: order_for(worker.contestant, order) for worker in workers}
        crew = [worker for worker in workers if orders[worker] is not None]
        found: dict[str, list[Row]] = {worker.contestant.name: [] for worker in crew}
        for number in range(rounds + 1):
            for worker in random.sample(crew, len(crew)):
                answer = worker.ask(**orders[worker] or {})
                if number:
                    found[worker.contestant.name].append(answer)
        yield from rows(title, found)


def rows(title: str, found: dict[str, list[Row]]) -> Iterator[Row]:
    """Sum up the rounds of one measure."""
    medians = {
        name: statistics.median(each["cpu"] for each in results)
        for name, results in found.items()
        if results and not any("error" in each for each in results)
    }
    for name, results in found.items():
        row: Row = {"measure": title, "contestant": name, "unit": "µs"}
        if name not in medians:
            yield row | {"failed": sorted({each["error"] for each in results if "error" in each})}
            continue
        for kind in ("cpu", "wall"):
            values = [each[kind] for each in results]
            row[kind] = statistics.median(values)
            row[f"{kind}_low"], row[f"{kind}_high"] = min(values), max(values)
        for key, base in (("to_held", HELD), ("to_ours", OURS)):
            row[key] = row["cpu"] / medians[base] if base in medians else None
        yield row


def kills(workers: list[Worker], node: Node, rounds: int) -> Iterator[Row]:
    """Kill all idle connections of each, and let one request come."""
    for worker in workers:
        took, failed = [], []
        for _ in range(rounds):
            worker.ask(do="fill", threads=SIZE)
            node.kill_backends(worker.contestant.slug)
            answer = worker.ask(do="first")
            failed += [answer["error"]] if "error" in answer else []
            took.append(answer["seconds"] * 1000)
        row: Row = {"measure": "after a kill", "contestant": worker.contestant.name, "unit": "ms"}
        row |= {"wall": statistics.median(took), "wall_low": min(took), "wall_high": max(took)}
        yield row | {"failed": sorted(set(failed)), "failures": len(failed), "rounds": rounds}


def show(row: Row) -> str:
    """Return a row of the table."""
    cells = [f"{row['measure']:30} {row['contestant']:30}"]
    for kind in ("cpu", "wall"):
        text = ""
        if kind in row:
            text = f"{row[kind]:9.1f} ({row[f'{kind}_low']:.0f}-{row[f'{kind}_high']:.0f})"
        cells.append(f"{text:26}")
    for key in ("to_held", "to_ours"):
        cells.append(f"{row[key]:7.2f}" if row.get(key) else " " * 7)
    if row.get("failed"):
        count = (
            f"{row['failures']} of {row['rounds']} failed: " if "failures" in row else "failed: "
        )
        cells.append(count + ", ".join(row["failed"]))
    return " ".join(cells)


@contextmanager
def contest(options: argparse.Namespace, node: Node, out: Any) -> Iterator[list[Worker]]:
    """Start the contestants; say who is missing, and why."""
    node.execute("CREATE TABLE contest_thing (id bigint PRIMARY KEY, name varchar(50) NOT NULL)")
    node.execute("INSERT INTO contest_thing VALUES (1, 'the one')")
    with ExitStack() as stack:
        workers = []
        for contestant in contestants(options.bound):
            if options.only not in contestant.name:
                continue
            try:
                python = interpreter_of(contestant, fetch=not options.no_fetch)
                worker = Worker(contestant, python, node)
                stack.callback(worker.close)
                worker.ask(do="fill", threads=SIZE)
            except Unavailable as reason:
                print(f"without {contestant.name}: {reason}", file=out)
                continue
            workers.append(worker)
        yield workers


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.peers",
        description=__doc__,
        epilog=READING,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    parser.add_argument(
        "--rounds", type=int, default=25, help="rounds of each (25); 0: kills alone"
    )
    parser.add_argument("--scale", type=float, default=1.0, help="length of a round (1.0)")
    parser.add_argument("--kills", type=int, default=5, help="how often all is killed (5)")
    parser.add_argument("--bound", type=float, default=30.0, help="patience of the pools, s (30)")
    parser.add_argument("--only", default="", help="contestants whose name has this in it")
    parser.add_argument("--quick", action="store_true", help="one short round of all")
    parser.add_argument("--no-fetch", action="store_true", help="have pip fetch nothing")
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds, options.scale, options.kills, options.bound = 1, 0.01, 1, 2.0
    if options.rounds < 0 or options.scale <= 0 or options.kills < 0:
        parser.error("--scale has to be above 0, --rounds and --kills not below")
    return options


def main(arguments: list[str] | None = None) -> None:
    """Run the contest that the command line asks for, and print it."""
    options = parsed(arguments)
    found: list[Row] = []
    out = sys.stderr if options.json else sys.stdout
    with (
        Cluster(settings={"max_connections": "250"}) as cluster,
        apart(cluster.primary.pid),
        contest(options, cluster.primary, out) as workers,
    ):
        kit = ", ".join(f"{name} {version(name)}" for name in ("Django", "psycopg", "psycopg-pool"))
        print(f"Python {sys.version.split()[0]}, {kit}", file=out)
        head = f"{'':61} {'CPU':26} {'wall':26} to held to ours"
        print(head, file=out, flush=True)
        for part in (
            run(workers, options.rounds, options.scale),
            kills(workers, cluster.primary, options.kills) if options.kills else iter(()),
        ):
            for row in part:
                found.append(row)
                if not options.json:
                    print(show(row), flush=True)
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()

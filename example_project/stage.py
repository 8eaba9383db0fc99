"""The main job: a cluster, a shop full of orders, a site, and load on it."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.live import Live
from rich.table import Table

from django_poolkit.testing import Cluster
from django_poolkit.testing.errors import ClusterError
from example_project import places, report
from example_project.bootstrap import ROOT
from example_project.load import MIX, Plan, drive, drive_alone
from example_project.measures import Measures
from example_project.processes import ChildFailed, listen, url_of
from example_project.report import RUNS, Run
from example_project.sampling import Sampler
from example_project.serving import Shape, database_environment, site, upstream

DATABASE = "shop"
ORDERS = 50_000
PORT = 8000
WARM_UP_SECONDS = 1.0
ALONE_REQUESTS = 6


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python3 -m example_project",
        description="Run the example shop on a local PostgreSQL, put load on it, and serve on. "
        "`manage COMMAND` runs one of Django's commands on it from another shell. "
        "`--python PATH_OR_VERSION` and `--django VERSION` choose what it runs on.",
        allow_abbrev=False,
    )
    parser.add_argument("--check", action="store_true", help="end with status 0 or 1, serve not on")
    parser.add_argument("--serve", action="store_true", help="serve at once, without any load")
    parser.add_argument("--seconds", type=_seconds, default=12.0, help="of each run")
    parser.add_argument("--requests-in-flight", type=_count, default=48)
    parser.add_argument("--pool-size", type=_count, default=8, help="of each worker")
    parser.add_argument("--port", type=_port, default=PORT, help="of the site; else a free one")
    parser.add_argument("--json", type=Path, help="write the measurements to this file")
    options = parser.parse_args(list(arguments))
    if options.check and options.serve:
        parser.error("--check has no result without load: leave --serve away")
    return options


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < 86_400:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and below a day")
    return value


def _count(text: str) -> int:
    value = int(text)
    if not 0 < value <= 1_000:
        raise argparse.ArgumentTypeError(f"{text} is not within 1 and 1000")
    return value


def _port(text: str) -> int:
    value = int(text)
    if not 0 <= value <= 65_535:
        raise argparse.ArgumentTypeError(f"{text} is not within 0 and 65535")
    return value


def main(arguments: Sequence[str]) -> int:
    """Run the main job; return the exit status. Whatever it started has ended by then."""
    options = parse(arguments)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    try:
        with contextlib.ExitStack() as stack:
            try:
                return Stage(options, stack).run()
            finally:
                # A second Ctrl-C must not interrupt the clearing up after the first.
                _hold_out()
    except KeyboardInterrupt:
        print("\nStopped.")
        return 130
    except (ChildFailed, ClusterError, subprocess.CalledProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


def _hold_out() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


class Stage:
    """What is running, and what has been measured on it."""

    def __init__(self, options: argparse.Namespace, stack: contextlib.ExitStack) -> None:
        self._options = options
        self._stack = stack
        self._shape = Shape(
            pool_size=options.pool_size,
            # Either worker may get all of it: no request waits for a thread.
            threads=options.requests_in_flight,
        )
        self._console = Console(width=None if sys.stdout.isatty() else 110)
        self._results: dict[str, Measures] = {}
        self._home = places.home()

    def run(self) -> int:
        """Set everything up, measure, and serve on or judge."""
        started = time.monotonic()
        self._home.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._cluster = self._start_cluster()
        self._environment = database_environment(
            self._cluster.primary, self._cluster.replicas[0], DATABASE
        )
        self._environment["SHOP_UPSTREAM_URL"] = self._stack.enter_context(upstream(self._home))
        places.save_environment(self._environment)
        self._stack.callback(places.forget_environment)
        self._fill()
        listener = self._stack.enter_context(listen(self._options.port))
        print(f"Ready after {time.monotonic() - started:.1f} s.\n", flush=True)
        if not self._options.serve:
            self._measure(listener)
            kept = self._judge()
            if self._options.check:
                return 0 if kept else 1
        self._serve(listener)
        return 0

    def _start_cluster(self) -> Cluster:
        print("Starting PostgreSQL: a primary and a streaming replica ...", flush=True)
        cluster = Cluster(replicas=1, directory=self._home / "cluster", reuse=True)
        self._stack.enter_context(cluster)
        for node in cluster.nodes:
            print(f"  {node.name} on {node.host}:{node.port}")
        print(f"  their data stays in {cluster.directory}")
        if not cluster.primary.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,)):
            cluster.primary.create_database(DATABASE)
        return cluster

    def _fill(self) -> None:
        print(f"Filling the shop with {ORDERS:,} orders ...", flush=True)
        for command in (["migrate", "--verbosity", "0"], ["seed", "--orders", str(ORDERS)]):
            subprocess.run(
                [sys.executable, "-m", "example_project.manage", *command],
                env={**os.environ, **self._environment},
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                check=True,
            )
        self._cluster.primary.wait_caught_up(self._cluster.replicas[0])

    def _measure(self, listener: socket.socket) -> None:
        options = self._options
        print(
            f"Load: {options.requests_in_flight} requests in flight for {options.seconds:g} s a run"
            f" ({', '.join(f'{share} % {kind}' for kind, share in MIX.items())}).\n"
            f"The site: 2 workers with a pool of {options.pool_size} each, on {url_of(listener)}\n"
        )
        for run in RUNS:
            with site(listener, self._shape, self._run_environment(run), self._log(run)):
                plan = Plan(url_of(listener), options.seconds, options.requests_in_flight)
                asyncio.run(self._watched(run, plan))
        self._console.print(report.table(self._results, self._shape))
        print(report.legend(self._results) + "\n")
        if options.json is not None:
            self._write(options.json)

    def _run_environment(self, run: Run) -> dict[str, str]:
        return {**self._environment, "SHOP_BACKEND": run.backend}

    def _log(self, run: Run) -> Path:
        return self._home / f"site-{run.key}.log"

    async def _watched(self, run: Run, plan: Plan) -> None:
        """Drive one run with its figures on show."""
        # The first requests import, compile templates and connect; in no run do they count.
        await drive(Plan(plan.url, WARM_UP_SECONDS, plan.in_flight, seed=1), Measures())
        measures = self._results[run.key] = Measures()
        with Sampler(self._cluster.primary, DATABASE, measures):
            load = asyncio.create_task(drive(plan, measures, self._killer(run, measures)))
            if self._console.is_terminal:
                await self._show_table(load)
            else:
                await self._show_lines(run, load, measures)
            await load
        if run.kill:
            # Once more while nothing is under way: all that died now lies idle in the pools.
            await self._kill_all()
            await drive_alone(plan, measures, ALONE_REQUESTS)

    def _killer(
        self, run: Run, measures: Measures
    ) -> Callable[[], Coroutine[None, None, None]] | None:
        if not run.kill:
            return None

        async def kill() -> None:
            measures.killed = await self._kill_all()

        return kill

    async def _kill_all(self) -> int:
        """Terminate every client's backend on every node; return how many there were."""
        counts = [await asyncio.to_thread(node.kill_backends) for node in self._cluster.nodes]
        return sum(counts)

    async def _show_table(self, load: asyncio.Task[None]) -> None:
        def view() -> Table:
            return report.table(self._results, self._shape)

        with Live(view(), console=self._console, auto_refresh=False, transient=True) as live:
            while not load.done():
                await asyncio.wait([load], timeout=0.5)
                live.update(view(), refresh=True)

    async def _show_lines(self, run: Run, load: asyncio.Task[None], measures: Measures) -> None:
        print(" ".join(run.title.split()), flush=True)
        while not load.done():
            await asyncio.wait([load], timeout=2.0)
            print(report.line(measures), flush=True)

    def _judge(self) -> bool:
        verdicts = report.verdicts(self._results, self._shape)
        for verdict in verdicts:
            print(f"  {'ok  ' if verdict.kept else 'FAIL'}  {verdict.sentence}")
        return all(verdict.kept for verdict in verdicts)

    def _write(self, path: Path) -> None:
        runs: Mapping[str, object] = {key: run.as_json() for key, run in self._results.items()}
        path.write_text(json.dumps({"shape": vars(self._shape), "runs": runs}, indent=1) + "\n")

    def _serve(self, listener: socket.socket) -> None:
        url, primary = url_of(listener), self._cluster.primary
        environment = {**self._environment, "SHOP_BACKEND": "poolkit"}
        with site(listener, self._shape, environment, self._home / "site.log") as child:
            print(
                f"\nThe shop is open. Try:\n"
                f"  {url}                          what there is to see\n"
                f"  curl {url}products/p00001/quote/\n"
                f'  curl -d \'{{"customer": 1, "items": {{"p00001": 2}}}}\' {url}orders/\n'
                "and in another shell:\n"
                "  python3 -m example_project manage shell\n"
                "  python3 -m example_project manage check --database default\n"
                f"  psql -h {primary.host} -p {primary.port} -U {primary.user} {DATABASE}"
                "   (its password is in .poolkit/example-environment.json)\n"
                "Ctrl-C stops everything.",
                flush=True,
            )
            while True:
                child.check()
                time.sleep(0.5)


def manage(arguments: Sequence[str]) -> int:
    """Run one of Django's management commands on the shop that runs from this checkout."""
    from example_project.manage import main as run_command

    if not places.saved_environment():
        print("note: no shop runs here; `python3 -m example_project` starts it", file=sys.stderr)
    run_command(list(arguments))
    return 0

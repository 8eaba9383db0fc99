"""The main job: a cluster, a shop full of orders, a site, and load on it."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import json
import secrets
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
from django_poolkit.testing.pgbouncer import require_pgbouncer
from example_project import advised, calls, flood, places, report, visits
from example_project.bootstrap import ROOT
from example_project.limits import LimitTooLow
from example_project.load import Plan, drive, drive_alone
from example_project.measures import Measures
from example_project.options import WORKERS, parse
from example_project.processes import ChildFailed, listen, run_to_end, url_of
from example_project.runs import EVERYDAY_MIX, Run, loads, runs_of, runs_through_pgbouncer
from example_project.sampling import Sampler
from example_project.serving import (
    Shape,
    async_site,
    database_environment,
    pgbouncer,
    site,
    take_peak,
    upstream,
)
from example_project.verdicts import verdicts

DATABASE = "shop"
STAFF = "staff"
ORDERS = 50_000
WARM_UP_SECONDS = 1.0
ALONE_REQUESTS = 6
# Whatever the supplier does, the site warms up on pages without it.
_WARM_UP_MIX = {kind: share for kind, share in EVERYDAY_MIX.items() if kind != "quote"}


def main(arguments: Sequence[str]) -> int:
    """Run the main job; return the exit status. Whatever it started has ended by then."""
    options = parse(arguments)
    try:
        flood.prepare(options)
    except LimitTooLow as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
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
        self._loads = loads(options.requests_in_flight, options.crowd)
        self._shape = Shape(
            pool_size=options.pool_size,
            # Either worker may get all of any load: no request waits for a thread.
            threads=max(load.in_flight for load in self._loads),
        )
        self._console = Console(width=None if sys.stdout.isatty() else 110)
        self._results: dict[str, Measures] = {}
        self._home = places.home()

    def run(self) -> int:
        """Set everything up, measure, and serve on or judge."""
        started = time.monotonic()
        if self._options.pgbouncer:
            require_pgbouncer()  # before anything is started
        self._home.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._cluster = self._start_cluster()
        self._environment = database_environment(
            self._cluster.primary, self._cluster.replicas[0], DATABASE
        )
        self._suppliers = {
            seconds: self._stack.enter_context(upstream(self._home, seconds))
            for seconds in {load.supplier_seconds for load in self._loads}
        }
        everyday, *_ = self._loads
        self._environment["SHOP_UPSTREAM_URL"] = self._suppliers[everyday.supplier_seconds]
        places.save_environment(self._environment)
        self._stack.callback(places.forget_environment)
        self._fill()
        listener = self._stack.enter_context(listen(self._options.port))
        print(f"Ready after {time.monotonic() - started:.1f} s.\n", flush=True)
        if self._options.flood:
            return 0 if self._flood() else 1
        if self._options.advise:
            return 0 if self._advise(listener) else 1
        if not self._options.serve:
            self._measure(listener)
            self._visit(listener)
            self._call(listener)
            if self._options.json is not None:
                self._write(self._options.json)
            kept = self._judge()
            if self._options.check:
                return 0 if kept else 1
        self._serve(listener)
        return 0

    def _start_cluster(self) -> Cluster:
        print("Starting PostgreSQL: a primary and a streaming replica ...", flush=True)
        cluster = Cluster(replicas=1, directory=self._home / "cluster", reuse=True)
        try:
            self._stack.enter_context(cluster)
        except ClusterError as error:
            if not places.saved_environment():
                raise
            hint = "Does the example run in another shell? Ctrl-C there ends it."
            raise ClusterError(f"{error}\n{hint}") from error
        for node in cluster.nodes:
            print(f"  {node.name} on {node.host}:{node.port}")
        print(f"  their data stays in {cluster.directory}")
        if not cluster.primary.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,)):
            cluster.primary.create_database(DATABASE)
        return cluster

    def _fill(self) -> None:
        print(f"Filling the shop with {ORDERS:,} orders ...", flush=True)
        for command in (["migrate", "--verbosity", "0"], ["seed", "--orders", str(ORDERS)]):
            self._manage(command)
        self._cluster.primary.wait_caught_up(self._cluster.replicas[0])

    def _manage(self, command: Sequence[str], **variables: str) -> None:
        run_to_end(
            [sys.executable, "-m", "example_project.manage", *command],
            environment={**self._environment, **variables},
            folder=ROOT,
        )

    def _measure(self, listener: socket.socket) -> None:
        options = self._options
        print(
            f"The site: {WORKERS} workers with a pool of {options.pool_size} connections each,"
            f" on {url_of(listener)}\n"
            f"{len(self._loads)} kinds of load, each in transaction mode, in session mode and on"
            f" Django's own pool, {options.seconds:g} s a run.\n",
            flush=True,
        )
        if options.pgbouncer:
            print(
                f"Then in transaction mode through PgBouncer, which lends {self._shape.shared}"
                " sessions of the server.\n",
                flush=True,
            )
        for load in self._loads:
            mix = ", ".join(f"{share} % {kind}" for kind, share in load.mix.items())
            print(f"{load.in_flight} requests in flight, {load.title}: {mix}", flush=True)
            for run in runs_of(load):
                self._run(run, listener)
            for run in runs_through_pgbouncer(load) if options.pgbouncer else ():
                with pgbouncer(self._cluster.primary, self._shape.shared) as variables:
                    self._run(run, listener, variables)
            self._console.print(report.table(self._results, self._shape, load))
            print(report.legend(self._results, load), flush=True)

    def _run(
        self, run: Run, listener: socket.socket, more: Mapping[str, str] | None = None
    ) -> None:
        print(f"  {run.engine.title} ...", flush=True)  # a site takes seconds to begin
        load, supplier = run.load, self._suppliers[run.load.supplier_seconds]
        variables = {**self._environment, **run.engine.variables, "SHOP_UPSTREAM_URL": supplier}
        variables |= more or {}
        with site(listener, self._shape, variables, self._home / f"site-{run.key}.log"):
            plan = Plan(url_of(listener), self._options.seconds, load.in_flight, load.mix)
            take_peak(supplier)  # and so that of an earlier run is gone
            asyncio.run(self._watched(run, plan))

    async def _watched(self, run: Run, plan: Plan) -> None:
        """Drive one run with its figures on show."""
        # The first requests import, compile templates and connect; in no run do they count.
        warm_up = dataclasses.replace(plan, seconds=WARM_UP_SECONDS, mix=_WARM_UP_MIX, seed=1)
        await drive(warm_up, Measures())
        measures = self._results[run.key] = Measures()
        with Sampler(self._cluster.primary, DATABASE, measures):
            load = asyncio.create_task(drive(plan, measures, self._killer(run, measures)))
            if self._console.is_terminal:
                await self._show_table(run, load)
            else:
                await self._show_lines(run, load, measures)
            await load
        await self._ask_supplier(run)
        if run.load.kill:
            # Once more while nothing is under way: all that died now lies idle in the pools.
            await self._kill_all()
            await drive_alone(plan, measures, ALONE_REQUESTS)

    def _flood(self) -> bool:
        primary, home = self._cluster.primary, self._home
        return flood.show(self._options, primary, self._environment, home, self._console)

    def _advise(self, listener: socket.socket) -> bool:
        home, environment = self._home, self._environment
        return advised.show(self._options, listener, environment, home, self._console)

    def _visit(self, listener: socket.socket) -> None:
        visitors, seconds = self._options.requests_in_flight, self._options.seconds
        print(visits.announcement(visitors, seconds), flush=True)
        with site(listener, self._shape, self._environment, self._home / "site-visits.log"):
            replica = self._cluster.replicas[0]
            self._visits = visits.measure(url_of(listener), replica, visitors, seconds)
        self._console.print(report.visits_table(self._visits), "")

    def _call(self, listener: socket.socket) -> None:
        print("The supplier asked by one client session, on an event loop:", flush=True)
        supplier, log = self._environment["SHOP_UPSTREAM_URL"], self._home / "site-async.log"
        with async_site(listener, self._shape, self._environment, log):
            self._calls = calls.measure(url_of(listener), supplier)
        print("\n".join(each.line() for each in self._calls) + "\n", flush=True)

    def _killer(
        self, run: Run, measures: Measures
    ) -> Callable[[], Coroutine[None, None, None]] | None:
        if not run.load.kill:
            return None

        async def kill() -> None:
            measures.killed = await self._kill_all()

        return kill

    async def _kill_all(self) -> int:
        """Terminate every client's backend on every node; return how many there were."""
        counts = [await asyncio.to_thread(node.kill_backends) for node in self._cluster.nodes]
        return sum(counts)

    async def _ask_supplier(self, run: Run) -> None:
        peak = await asyncio.to_thread(take_peak, self._suppliers[run.load.supplier_seconds])
        self._results[run.key].saw_at_supplier(peak)

    async def _show_table(self, run: Run, load: asyncio.Task[None]) -> None:
        def view() -> Table:
            return report.table(self._results, self._shape, run.load)

        with Live(view(), console=self._console, auto_refresh=False, transient=True) as live:
            while not load.done():
                await asyncio.wait([load], timeout=0.5)
                await self._ask_supplier(run)
                live.update(view(), refresh=True)

    async def _show_lines(self, run: Run, load: asyncio.Task[None], measures: Measures) -> None:
        while not load.done():
            await asyncio.wait([load], timeout=4.0)
            print(report.line(measures), flush=True)

    def _judge(self) -> bool:
        print(report.conclusion(self._results, self._shape, self._loads) + "\n\nWhat is promised:")
        found = [*verdicts(self._results, self._shape, self._loads)]
        found += visits.verdicts(self._visits)
        found += [each.verdict() for each in self._calls]
        for verdict in found:
            print(f"  {'ok  ' if verdict.kept else 'FAIL'}  {verdict.sentence}", flush=True)
        return all(verdict.kept for verdict in found)

    def _write(self, path: Path) -> None:
        runs: Mapping[str, object] = {key: run.as_json() for key, run in self._results.items()}
        shape = {**vars(self._shape), "connections": self._shape.connections}
        met = {each.key: each.as_json() for each in self._visits}
        path.write_text(json.dumps({"shape": shape, "runs": runs, "visits": met}, indent=1) + "\n")

    def _admit_staff(self) -> str:
        """Turn the admin on, and let one into it; return the password."""
        password = secrets.token_urlsafe(9)
        self._environment["SHOP_STAFF"] = "on"
        places.save_environment(self._environment)
        for command in (["migrate", "--verbosity", "0"], ["staff", STAFF]):
            self._manage(command, SHOP_STAFF_PASSWORD=password)
        return password

    def _serve(self, listener: socket.socket) -> None:
        url, primary = url_of(listener), self._cluster.primary
        jar, order = ".poolkit/jar", '{"customer": 1, "items": {"p00001": 2}}'
        password = self._admit_staff()
        with site(listener, self._shape, self._environment, self._home / "site.log") as child:
            print(
                f"\nThe shop is open. Try:\n"
                f"  {url}   what there is to see\n"
                f"  curl {url}products/p00001/quote/   # asks the supplier\n"
                f"  curl -c {jar} -d '{order}' {url}orders/   # places an order\n"
                f"  curl -i -b {jar} -c {jar} {url}customers/1/orders/   # X-Read-From says where\n"
                f"  curl -i {url}health/ready   # may it be sent requests?\n"
                f"  curl {url}health/db   # are its databases well?\n"
                f"  {url}admin/poolkit/   all pools, live: log in as {STAFF}, password {password}\n"
                "and in another shell:\n"
                "  python3 -m example_project manage poolstatus --watch\n"
                "  python3 -m example_project manage poolcheck\n"
                "  python3 -m example_project manage poolctl pause --all --for 10\n"
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

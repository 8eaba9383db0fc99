"""`python3 -m tests.django_suite`: Django's own tests on our backend, from nothing but a Python."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from example_project.bootstrap import ROOT, enter, split_options
from example_project.environment import environments_home

if TYPE_CHECKING:
    from tests.django_suite.report import Report
    from tests.django_suite.running import Say
    from tests.django_suite.variants import Variant

DESCRIPTION = """\
Runs the test suite of the installed Django on our backend, in session and in transaction mode,
and on Django's own without a pool, in the same environment; and compares, test by test. What the
stock backend passes, ours has to pass. The few tests that cannot are listed with their reasons in
tests/django_suite/known.py.

The source of Django is fetched by pip, once, and a PostgreSQL server is started for the run."""

EPILOG = """\
sets of tests:
  telling    where a backend shows itself: connections, transactions, cursors, threads, servers
  orm        what sites do with the ORM; the default with --autocommit
  async      async methods, and what they are made of; the default with --async-orm, --in-bridge
  database   everything that asks a database anything
  whole      everything but the tests of GIS

how to read the table:
  "leases" is how often a connection was acquired of the pools of the test databases. In transaction
  mode it grows with the statements; with --autocommit each of them gives its connection back.
  It is not known with --parallel.
  What fails with stock says nothing about ours: the server may lack an extension or ICU, or the
  tests want another user than root. Up to three new differences have to show in a second run.

examples:
  python3 -m tests.django_suite                                   the telling set: what CI runs
  python3 -m tests.django_suite --autocommit                      no transaction around a test
  python3 -m tests.django_suite --async-orm                       async methods without threads
  python3 -m tests.django_suite --labels queries transactions     two of Django's modules
  python3 -m tests.django_suite --labels database --python 3.11 --django 5.2
  python3 -m tests.django_suite --parallel 2 --json run.json

  POOLKIT_PG_BIN=/usr/lib/postgresql/18/bin python3 -m tests.django_suite --labels database
                                            on a server that has ICU and the contrib extensions

exit codes:
  0  no difference, or only listed ones
  1  a test that the stock backend passes, and ours does not
  2  the command line is wrong
  3  it could not be run: no source, no server, or a run that did not come to its end

The outcome of the stock backend is kept in .poolkit/django-suite for as long as Django, Python,
the server and the installed packages stay as they are. The output of the last runs lies there."""


def parser() -> argparse.ArgumentParser:
    """Return the command line; `--python` and `--django` are the environment's."""
    parser = argparse.ArgumentParser(
        prog="python3 -m tests.django_suite",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--labels",
        nargs="+",
        metavar="LABEL",
        help="a set (see below), or modules, classes or tests of Django's",
    )
    parser.add_argument(
        "--mode",
        choices=("session", "transaction"),
        action="append",
        help="only this mode of ours (both)",
    )
    parser.add_argument(
        "--autocommit",
        action="store_true",
        help="switch off the transaction around each test: the same ids must fail as with stock",
    )
    ways = parser.add_mutually_exclusive_group()
    ways.add_argument(
        "--async-orm",
        action="store_const",
        const="async",
        default="threads",
        dest="way",
        help="have Django's async methods run on the event loop with ours",
    )
    ways.add_argument(
        "--in-bridge",
        action="store_const",
        const="bridge",
        dest="way",
        help="run each test of ours that is no coroutine as a whole in the bridge, on a loop",
    )
    parser.add_argument(
        "--parallel", type=_processes, default=1, metavar="N", help="processes for the tests (1)"
    )
    parser.add_argument("--fresh", action="store_true", help="run the stock backend in any case")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write the report there, as JSON"
    )
    parser.add_argument("--python", help="run on another Python, as python3 -m tests does")
    parser.add_argument("--django", help="run on another Django, as python3 -m tests does")
    return parser


def _processes(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1 process is needed")
    return number


_FOR_EVER = float("inf")


class Progress:
    """Says on standard error how far the runs are: a line that changes, or one now and then."""

    EVERY = 20.0

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._next = 0.0

    def of(self, variant: Variant) -> Say:
        """Return what is told of one run."""
        self._next = 0.0

        def say(done: Any, seconds: float) -> None:
            if done.finished:
                if self._next == _FOR_EVER:
                    return
                self._next = _FOR_EVER
            elif self._terminal or seconds >= self._next:
                self._next = seconds + self.EVERY
            else:
                return
            total = "..." if done.total is None else f"{done.total:,}"
            line = f"{variant.name}: {len(done.tests):,} of {total} tests after {seconds:.0f} s"
            line += f", {done.count('failed')} failed" if done.count("failed") else ""
            end = "\r" if self._terminal and not done.finished else "\n"
            print(line.ljust(70) if self._terminal else line, end=end, file=sys.stderr, flush=True)

        return say


def compare_all(options: argparse.Namespace) -> Report:
    """Do what the command line asks for, and return the report."""
    import django

    from django_poolkit.testing import Cluster
    from django_poolkit.testing.errors import ClusterError
    from tests.django_suite import judging, labels, source
    from tests.django_suite.report import Report
    from tests.django_suite.running import Task
    from tests.django_suite.variants import MODES

    home = environments_home(ROOT) / ".poolkit" / "django-suite"
    fetched = source.fetch(django.__version__, home)
    usual = "telling" if options.way == "threads" else "async"
    wanted = options.labels or ["orm" if options.autocommit else usual]
    try:
        with Cluster() as cluster:
            node = cluster.primary
            with node.connect() as connection:
                icu = connection.execute(
                    "SELECT 1 FROM pg_collation WHERE collname = 'sv-x-icu'"
                ).fetchone()
                server = connection.info.parameter_status("server_version") or ""
            choice = labels.choose(wanted, fetched, icu=icu is not None)
            task = Task(fetched, choice.labels, options.autocommit, options.parallel, options.way)
            report = Report(
                judging.versions(server.split()[0]),
                " ".join(wanted),
                options.autocommit,
                options.parallel,
                choice.left_out,
            )
            judge = judging.Judge(task, node, home, Progress().of)
            judge.judge(report, options.mode or MODES, fresh=options.fresh)
    except ClusterError as error:
        raise source.SuiteError(f"no PostgreSQL server: {error}") from error
    return report


def main(options: argparse.Namespace) -> int:
    """Run, inside the environment; returns the exit status."""
    from tests.django_suite.source import SuiteError

    try:
        report = compare_all(options)
    except SuiteError as error:
        print(f"error: {error}", file=sys.stderr)
        return 3
    print(*report.lines(), sep="\n")
    if options.json is not None:
        options.json.write_text(json.dumps(report.as_json(), indent=1) + "\n")
    return 1 if report.failed else 0


def _stop(*_: object) -> None:
    sys.exit(128 + signal.SIGTERM)  # past all that has to be ended and removed


if __name__ == "__main__":
    # First of all: whoever asks for help, or mistypes, waits for no environment.
    parser().parse_args(split_options(sys.argv[1:])[1])
    signal.signal(signal.SIGTERM, _stop)
    try:
        sys.exit(main(parser().parse_args(enter("tests.django_suite", ["dev"]))))
    except KeyboardInterrupt:
        sys.exit(130)

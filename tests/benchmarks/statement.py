"""What a statement costs the client, by who holds the connection: one run, side by side.

Transaction mode gives the connection back after each statement and takes one for the next. This
program shows what that costs, in microseconds of the client's CPU and of wall time, beside
holding on to a connection and beside the other pools. It starts a server of its own.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from time import perf_counter, thread_time
from typing import Any

import django
from django.conf import settings

from django_poolkit.testing import Cluster, Node

HELD = "held connection"
RIVAL = "django-pg-real-pool"
_RIVAL_ENGINE = "django_pg_real_pool"

READING = f"""
contestants:
  {HELD}         Django without a pool, CONN_MAX_AGE=None: the floor
  Django's pool           Django's own OPTIONS["pool"]; held for a round, then closed
  ours, session mode      the same with django_poolkit's pool
  ours, transaction mode  django_poolkit's pool; given back after each statement
  ours, pinned            the same inside `with connection.pinned()`: given back after a round
  {RIVAL}     another pool that gives back after each statement; fetched with pip
                          for the length of the run where it is not installed

how to read the table:
  The contestants take turns in short rounds, in an order that is drawn anew each time, so that
  whatever else the machine does hits all of them alike. A row shows the median of the rounds
  and, in brackets, the lowest and the highest. "x held" is the ratio of CPU medians to the held
  connection's, "+ held" their difference: that of "SELECT 1" is the price of giving back.
  "quiet" compares not the medians but what the quickest tenth of the rounds took at most, which
  another program on the machine disturbs least. Client and server are kept on cores of their
  own. Compare ratios of one run, never times of two.
  "connect and close" is what a request pays for beginning to use the wrapper and ending it;
  for the held connection that is a new one each time.

examples:
  python -m tests.benchmarks.statement                     half a minute, on a quiet machine
  python -m tests.benchmarks.statement --rounds 250        for figures that are to be quoted
  python -m tests.benchmarks.statement --json > run.json   the same rows, for another program
"""

Row = dict[str, Any]
Cycle = Callable[[], object]
Times = tuple[float, float]


@contextmanager
def rival(*, fetch: bool) -> Iterator[str | None]:
    """Make the rival importable for the block; provide why it is not, None if it is."""
    with ExitStack() as stack:
        try:
            importlib.import_module(_RIVAL_ENGINE)
        except ImportError:
            if not fetch:
                yield "it is not installed, and --no-fetch was given"
                return
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="rival-"))
            # Without its dependencies: it is to run on the Django and psycopg of the others.
            pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
            command = [*pip, "install", "--no-deps", "--target", folder, RIVAL]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                yield f"pip cannot install it: {(done.stderr.strip() or '?').splitlines()[-1]}"
                return
            sys.path.append(folder)
            stack.callback(sys.path.remove, folder)
            importlib.invalidate_caches()
        yield None


def configure(node: Node, *, with_rival: bool) -> dict[str, str]:
    """Set Django up with an alias for each contestant; return their names by alias."""
    stock, ours = "django.db.backends.postgresql", "django_poolkit.backends.postgresql"
    entry = node.django_settings()
    small = {"min_size": 1, "max_size": 4}
    statement = {**small, "mode": "transaction"}
    contestants: dict[str, tuple[str, dict[str, Any]]] = {
        "default": (HELD, {"ENGINE": stock, "CONN_MAX_AGE": None}),
        "django": ("Django's pool", {"ENGINE": stock, "OPTIONS": {"pool": small}}),
        "session": ("ours, session mode", {"ENGINE": ours, "OPTIONS": {"pool": small}}),
        "transaction": ("ours, transaction mode", {"ENGINE": ours, "OPTIONS": {"pool": statement}}),
        "pinned": ("ours, pinned", {"ENGINE": ours, "OPTIONS": {"pool": statement}}),
    }
    if with_rival:
        contestants["rival"] = (RIVAL, {"ENGINE": _RIVAL_ENGINE, "OPTIONS": {"pool": small}})
    settings.configure(
        USE_TZ=True,
        INSTALLED_APPS=["django_poolkit", "tests.app"],
        DATABASES={alias: entry | more for alias, (_, more) in contestants.items()},
        # The rival logs each time at INFO. Nobody is to pay for a handler.
        LOGGING_CONFIG=None,
    )
    django.setup()
    return {alias: name for alias, (name, _) in contestants.items()}


def timed(cycle: Cycle, times: int) -> Times:
    """Return what one `cycle` takes, CPU and wall, in microseconds."""
    gc.collect()
    gc.disable()
    try:
        wall, cpu = perf_counter(), thread_time()
        for _ in range(times):
            cycle()
        cpu, wall = thread_time() - cpu, perf_counter() - wall
    finally:
        gc.enable()
    return cpu / times * 1e6, wall / times * 1e6


def measures() -> Iterator[tuple[str, int, Callable[[Any], Cycle]]]:
    """Provide what is measured: its name, how often a round, and who makes it for a wrapper."""
    from tests.app.models import Item

    def empty_cursor(connection: Any) -> Cycle:
        def cycle() -> None:
            with connection.cursor():
                pass

        return cycle

    def select(connection: Any) -> Cycle:
        def cycle() -> None:
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1")
                cursor.fetchone()

        return cycle

    def get(connection: Any) -> Cycle:
        manager = Item.objects.using(connection.alias)
        return lambda: manager.get(pk=1)

    def connect_and_close(connection: Any) -> Cycle:
        def cycle() -> None:
            connection.ensure_connection()
            connection.close()

        return cycle

    yield "empty cursor", 200, empty_cursor
    yield "SELECT 1", 60, select
    yield "Model.objects.get()", 30, get
    yield "connect and close", 4, connect_and_close


def run(names: dict[str, str], rounds: int, scale: float) -> Iterator[Row]:
    """Let the contestants take turns; the first round of each measure is a warm-up."""
    from django.db import connections

    gc.collect()
    gc.freeze()  # or each round would begin with a walk through all of Django
    for title, usual, make in measures():
        times = max(1, round(usual * scale))
        found: dict[str, list[Times]] = {alias: [] for alias in names}
        for number in range(rounds + 1):
            for alias in random.sample([*names], len(names)):
                connection: Any = connections[alias]
                pinned = alias == "pinned"
                if pinned and title == "connect and close":
                    continue  # there is nothing to pin
                cycle = make(connection)
                with connection.pinned() if pinned else nullcontext():
                    # Who holds on to a connection has it from here on. Not by ensure_connection():
                    # after that the rival gives nothing back any more.
                    cycle()
                    result = timed(cycle, times)
                if alias != "default":
                    connection.close()
                if number:
                    found[alias].append(result)
        yield from rows(title, times, {names[alias]: found[alias] for alias in names})


def quiet(values: Iterable[float]) -> float:
    """Return what the quickest tenth does not exceed."""
    ascending = sorted(values)
    return ascending[len(ascending) // 10]


def rows(title: str, times: int, found: dict[str, list[Times]]) -> Iterator[Row]:
    """Sum up the rounds of one measure."""
    floor = statistics.median(cpu for cpu, _ in found[HELD])
    quiet_floor = quiet(cpu for cpu, _ in found[HELD])
    for name, results in found.items():
        if not results:
            continue
        row: Row = {"measure": title, "contestant": name, "unit": "µs", "per_round": times}
        for kind, values in zip(("cpu", "wall"), zip(*results, strict=True), strict=True):
            row[kind] = statistics.median(values)
            row[f"{kind}_low"], row[f"{kind}_high"] = min(values), max(values)
        row |= {"ratio": row["cpu"] / floor, "more": row["cpu"] - floor}
        row["cpu_quiet"] = least = quiet(cpu for cpu, _ in results)
        yield row | {"quiet_ratio": least / quiet_floor, "quiet_more": least - quiet_floor}


def show(row: Row) -> str:
    """Return a row of the table."""
    spread = {
        kind: f"{row[kind]:8.1f} ({row[f'{kind}_low']:.0f}-{row[f'{kind}_high']:.0f})"
        for kind in ("cpu", "wall")
    }
    return (
        f"{row['measure']:20} {row['contestant']:24} {spread['cpu']:24} {spread['wall']:24}"
        f" {row['ratio']:6.2f} {row['more']:+8.1f} {row['quiet_ratio']:7.2f}"
        f" {row['quiet_more']:+8.1f}"
    )


@contextmanager
def apart(server: int) -> Iterator[None]:
    """Keep this program on one core and the server on another, where the system can do that.

    Else it is luck which connection's server process shares its core with the client, and for
    how long: that alone makes one contestant's statement dearer than another's.
    """
    cores = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else []
    if len(cores) < 2:
        yield
        return
    os.sched_setaffinity(server, set(cores[1:]))  # and what it forks from now on
    os.sched_setaffinity(0, {cores[0]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, set(cores))


@contextmanager
def contest(node: Node, *, with_rival: bool) -> Iterator[dict[str, str]]:
    """Set up the contestants with a row to get, and close their pools afterwards."""
    names = configure(node, with_rival=with_rival)
    from django.db import connections

    from tests.app.models import Item

    with connections["default"].schema_editor() as editor:
        editor.create_model(Item)
    Item.objects.create(pk=1, name="the one")
    try:
        yield names
    finally:
        for alias in names:
            connection: Any = connections[alias]
            connection.close()
            if connection.settings_dict["OPTIONS"].get("pool"):
                connection.close_pool()


def main() -> None:
    """Run the contest that the command line asks for, and print it."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.statement",
        description=__doc__,
        epilog=READING,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    parser.add_argument("--rounds", type=int, default=90, help="rounds of each contestant (90)")
    parser.add_argument("--scale", type=float, default=1.0, help="length of a round (1.0)")
    parser.add_argument("--no-fetch", action="store_true", help=f"do not have pip fetch {RIVAL}")
    options = parser.parse_args()
    if options.rounds < 1 or options.scale <= 0:
        parser.error("--rounds and --scale have to be above 0")
    found: list[Row] = []
    with (
        rival(fetch=not options.no_fetch) as missing,
        Cluster() as cluster,
        apart(cluster.primary.pid),
        contest(cluster.primary, with_rival=missing is None) as names,
    ):
        # Where the rows are JSON, what is said about them goes elsewhere.
        out = sys.stderr if options.json else sys.stdout
        print(f"Python {sys.version.split()[0]}, Django {django.__version__}", file=out)
        if missing is not None:
            print(f"without {RIVAL}: {missing}", file=out)
        head = f"{'':45} {'CPU, µs':24} {'wall, µs':24} x held   + held   quiet   + held"
        print(head, file=out, flush=True)
        for row in run(names, options.rounds, options.scale):
            found.append(row)
            if not options.json:
                print(show(row), flush=True)
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()

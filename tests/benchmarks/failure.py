"""What a fault of the database costs those who make requests all the while, and for how long.

Each contestant has a process and an environment of its own, in which threads make a request, pause,
and make the next. Then all idle connections are killed, the server is away, the network hangs or
has forgotten its connections, or the primary dies and its replica takes over.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from django_poolkit.testing import Cluster
from django_poolkit.testing.pgbouncer import PgBouncer, find_pgbouncer
from tests.benchmarks import peers
from tests.benchmarks.faults import FAULTS, Fault, Ground, prepare
from tests.benchmarks.figures import Row, number, summed
from tests.benchmarks.peers import SIZE, Contestant, Unavailable, Worker

WORKER: Final = Path(__file__).with_name("failure_worker.py")
NO_POOL: Final = "no pool"
BOUNCER: Final = "PgBouncer, plain Django"
FEW: Final = {"restart-20": ("Django's pool, health checks", "ours, session", "ours, transaction")}
"""Who alone meets what takes long, without --long."""
PAUSE: Final = 0.02
"""Seconds between two requests of a thread."""
WARM_UP: Final = 0.5
"""Seconds of requests before the fault."""

READING: Final = f"""
contestants:
  {NO_POOL}                   Django as it comes: a connection for each request
  {BOUNCER}   the same through PgBouncer in transaction mode, where that is installed
  and those of python -m tests.benchmarks.peers --help: pools of {SIZE} connections, with a timeout
  of --patience seconds where they have one, and nothing else

faults:
  kill         nobody makes a request; all backends are terminated; then all go on
  restart-1    the server is shut down, away for 1 s, and started; restart-5, restart-20 likewise
               (the last one is met by few contestants, unless --long is given)
  hang         for 3 s nothing passes between clients and server; then all that was sent arrives
  forgotten    the connections have been idle for 1 s, and nothing passes by them ever again, as
               after a firewall has dropped them: nobody is told. New ones are passed on
  failover     the primary crashes and the replica is promoted; the requests write. All know both
               servers by libpq's own list of hosts, with target_session_attrs=read-write

how to read the table:
  --threads threads make a request of one query and pause for {PAUSE * 1000:g} ms, again and again.
  "first" is when, after the fault has ended, the first request succeeded that ended since; "all"
  when each thread had succeeded once, both in seconds; "none": not within --bound seconds. "failed"
  are the requests that failed from the fault's beginning on, out of all since then: who fails at
  once fails often, as it asks again. "longest" is what a request took at most, in seconds; one that
  is still waiting counts for as long as it has waited. Of several rounds the median, and in
  brackets the lowest and the highest.

exit code:
  0 if ours served all threads again in each case, 1 if not. No time is judged.

examples:
  python -m tests.benchmarks.failure                             all, three rounds
  python -m tests.benchmarks.failure --faults kill --rounds 9
  python -m tests.benchmarks.failure --only ours --faults failover
  python -m tests.benchmarks.failure --json > run.json           the same rows, for another program
"""


def contestants(patience: float) -> list[Contestant]:
    """Return all of them, PgBouncer last."""
    through = {"DISABLE_SERVER_SIDE_CURSORS": True}
    known = peers.contestants(patience)
    return [Contestant(NO_POOL), *known, Contestant(BOUNCER, settings=through)]


def trial(
    fault: Fault, contestant: Contestant, cluster: Cluster, options: argparse.Namespace
) -> Row:
    """Have one contestant meet one fault; return what that cost."""
    python = peers.interpreter_of(contestant, fetch=not options.no_fetch)
    with ExitStack() as stack:
        ground = stack.enter_context(fault.ground(cluster))
        there: Any = ground.node
        if contestant.name == BOUNCER:
            there = stack.enter_context(PgBouncer(ground.node, default_pool_size=SIZE))
        own = replace(contestant, options={**contestant.options, **dict(ground.options)})
        worker = Worker(own, python, there, WORKER)
        stack.callback(worker.close)
        return _struck(fault, worker, ground, options)


def _struck(fault: Fault, worker: Worker, ground: Ground, options: argparse.Namespace) -> Row:
    since = time.monotonic()
    worker.ask(do="begin", threads=options.threads, pause=PAUSE, write=fault.writes)
    if not _settled(worker, since, options.bound):
        raise Unavailable("its requests fail before the fault")
    time.sleep(WARM_UP)
    span = fault.strike(ground, worker)
    _settled(worker, span.ended, options.bound)
    return worker.ask(do="answer", begun=span.begun, ended=span.ended)


def _settled(worker: Worker, since: float, bound: float) -> bool:
    """Wait until each thread has succeeded; return whether that was within the bound."""
    end = time.monotonic() + bound
    while not worker.ask(do="settled", since=since)["settled"]:
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def measure(options: argparse.Namespace, cluster: Cluster, out: Any) -> Iterator[Row]:
    """Let the contestants meet each fault in turns; provide a row for each pair."""
    left_out: set[str] = set()
    for key in options.faults:
        fault, found = FAULTS[key], dict[str, list[Row]]()
        for number_of_round in range(options.rounds):
            for each in taking_part(options, key):
                if each.name in left_out:
                    continue
                print(f"{fault.name}, round {number_of_round + 1}: {each.name}", file=out)
                out.flush()
                try:
                    answer = trial(fault, each, cluster, options)
                except Unavailable as reason:
                    print(f"without {each.name}: {reason}", file=out)
                    if each.package:
                        left_out.add(each.name)
                else:
                    found.setdefault(each.name, []).append(answer)
        for name, answers in found.items():
            yield _row(fault.name, name, answers)


def taking_part(options: argparse.Namespace, key: str) -> list[Contestant]:
    """Return who meets a fault. PgBouncer knows one server: somebody else has to move it."""
    bouncer = find_pgbouncer() is not None and FAULTS[key].needs != "replica"
    few = None if options.long else FEW.get(key)
    return [
        each
        for each in contestants(options.patience)
        if options.only in each.name and (bouncer or each.name != BOUNCER)
        if few is None or each.name in few
    ]


def _row(measure: str, contestant: str, answers: Sequence[Row]) -> Row:
    row: dict[str, Any] = {"measure": measure, "contestant": contestant}
    for key in ("first", "all", "failed", "longest"):
        row |= summed([answer[key] for answer in answers], key, digits=4)
    errors = sorted({error for answer in answers for error in answer["errors"]})
    return row | {
        "errors": errors,
        "requests": sum(answer["requests"] for answer in answers),
        "rounds": len(answers),
    }


HEAD: Final = f"{'':44} {'first':>16} {'all':>16} {'failed':>18} {'longest':>16}"


def show(row: Row) -> str:
    """Return a row of the table."""
    cells = []
    for key, wide in (("first", 16), ("all", 16), ("failed", 18), ("longest", 16)):
        cell = number(row[key])
        if row["rounds"] > 1:
            cell += f" ({number(row[f'{key}_low'])}-{number(row[f'{key}_high'])})"
        cells.append(f"{cell:>{wide}}")
    return f"{row['contestant']:44} {' '.join(cells)}  {', '.join(row['errors'])}".rstrip()


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.failure",
        description=__doc__,
        epilog=READING,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    parser.add_argument(
        "--faults", nargs="+", choices=list(FAULTS), default=list(FAULTS), help="of these (all)"
    )
    parser.add_argument("--long", action="store_true", help=f"{' '.join(FEW)} by all, not by few")
    parser.add_argument("--rounds", type=int, default=3, help="of each fault (3)")
    parser.add_argument("--threads", type=int, default=SIZE, help=f"that make requests ({SIZE})")
    parser.add_argument("--patience", type=float, default=5.0, help="of the pools, s (5)")
    parser.add_argument("--bound", type=float, default=15.0, help="of our waiting, s (15)")
    parser.add_argument("--only", default="", help="contestants whose name has this in it")
    parser.add_argument("--no-fetch", action="store_true", help="have pip fetch nothing")
    options = parser.parse_args(arguments)
    if min(options.rounds, options.threads, options.patience, options.bound) <= 0:
        parser.error("--rounds, --threads, --patience and --bound have to be above 0")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, and return 1 where ours did not serve all threads again, else 0."""
    options = parsed(arguments)
    found: list[Row] = []
    with Cluster(settings={"max_connections": "200"}) as cluster:
        prepare(cluster.primary)
        shown = ""
        try:
            for row in measure(options, cluster, sys.stderr):
                found.append(row)
                if not options.json:
                    if row["measure"] != shown:
                        print(f"\n{row['measure']}\n{HEAD}")
                        shown = row["measure"]
                    print(show(row), flush=True)
        except KeyboardInterrupt:
            print("interrupted: these are the faults that were over", file=sys.stderr)
        if options.json:
            print(json.dumps(found), flush=True)
    return 0 if served_again(options, found) else 1


def served_again(options: argparse.Namespace, found: Sequence[Row]) -> bool:
    """Return whether ours served all threads again, in each case."""
    served = {(row["measure"], row["contestant"]) for row in found if row["all"] is not None}
    return all(
        (FAULTS[key].name, each.name) in served
        for key in options.faults
        for each in taking_part(options, key)
        if each.name.startswith("ours")
    )


if __name__ == "__main__":
    sys.exit(main())

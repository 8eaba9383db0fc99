"""What it costs to ask the router, and to be told of a write: one run, side by side.

Django asks a router once to four times for each query, before it does anything else. This program
shows what one question takes, in microseconds. It needs no server: nothing here opens anything.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from time import perf_counter
from typing import Any

import django
from django.conf import settings

TARGET = 3.0

READING = f"""
what is asked:
  ten lines            the router of Django's documentation: one constant for reads, the floor
  ours, in a scope     the first read of a plain model in `with scope():`, and each after it
  ours, in a request   the same in a request, as the wrappers and the middleware open it
  ours, after a write  the same when the scope has written, so that the primary is read
  ours, by relation    as for a related manager: with the instance for a hint
  ours, no scope       in a thread that has opened none
  ours, overridden     in `with use_primary():`
  ours, for a write    db_for_write()
  a write is noted     what the backend's call takes as a statement begins that may write

how to read the table:
  The questions take turns in short rounds, in an order drawn anew each time. A row shows the
  median of the rounds and, in brackets, the quickest tenth, which other programs disturb least.
  The target is {TARGET:g} us for "ours, in a scope". It may be judged by the quickest tenth, on a
  machine that has something else to do.

examples:
  python -m tests.benchmarks.routing
  python -m tests.benchmarks.routing --rounds 500
  python -m tests.benchmarks.routing --json > run.json
"""

Question = Callable[[], object]


def configure() -> None:
    """Set Django up with a cluster whose servers are nowhere."""
    entry = {"ENGINE": "django_poolkit.backends.postgresql", "NAME": "nowhere"}
    settings.configure(
        INSTALLED_APPS=["django_poolkit", "tests.app"],
        DATABASES={"default": entry, "replica": {**entry, "PORT": "1"}},
        DATABASE_ROUTERS=["django_poolkit.routing.ReadWriteRouter"],
        POOLKIT={"CLUSTERS": {"default": {"replicas": ["replica"]}}},
        LOGGING_CONFIG=None,
    )
    django.setup()


class TenLines:
    """The router that everybody begins with."""

    def db_for_read(self, model: Any, **hints: Any) -> str:
        """Return the replica."""
        return "replica"


def questions() -> Iterator[tuple[str, Callable[[], Any], Question]]:
    """Provide what is asked: its name, the block in which it is, and the question."""
    from django.db import connections

    from django_poolkit.backends.request import RequestScope, entered
    from django_poolkit.routing import ReadWriteRouter, joining, scope, use_primary
    from django_poolkit.routing.monitor import monitor
    from tests.app.models import Item

    monitor.started = True  # as where somebody looks, and finds all well
    assert not connections["default"].in_atomic_block  # there is a wrapper, as where it is used
    ours, ten = ReadWriteRouter(), TenLines()
    item = Item(pk=1)
    item._state.db = "replica"

    def read() -> object:
        return ours.db_for_read(Item)

    @contextmanager
    def written() -> Iterator[None]:
        with scope():
            joining.note_write("default")
            yield

    yield "ten lines", nullcontext, lambda: ten.db_for_read(Item)
    yield "ours, in a scope", scope, read
    yield "ours, in a request", lambda: entered(RequestScope(method="GET")), read
    yield "ours, after a write", written, read
    yield "ours, by relation", scope, lambda: ours.db_for_read(Item, instance=item)
    yield "ours, no scope", nullcontext, read
    yield "ours, overridden", use_primary, read
    yield "ours, for a write", scope, lambda: ours.db_for_write(Item)
    yield "a write is noted", scope, lambda: joining.note_write("default")


def timed(question: Question, times: int) -> float:
    """Return what one question takes, in microseconds."""
    gc.disable()
    try:
        started = perf_counter()
        for _ in range(times):
            question()
        return (perf_counter() - started) / times * 1e6
    finally:
        gc.enable()


def measure(rounds: int, times: int) -> list[dict[str, Any]]:
    """Ask all questions in turns; return a row for each."""
    asked = list(questions())
    found: dict[str, list[float]] = {name: [] for name, _, _ in asked}
    for _ in range(rounds):
        for name, block, question in random.sample(asked, len(asked)):
            with block():
                question()
                found[name].append(timed(question, times))
    return [
        {
            "question": name,
            "median": statistics.median(each),
            "quick": sorted(each)[len(each) // 10],
            "rounds": len(each),
        }
        for name, each in found.items()
    ]


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, and return 1 if the target is missed by the quickest tenth, else 0."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.routing",
        description=__doc__,
        epilog=READING,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=100, help="rounds, of all (default: 100)")
    parser.add_argument("--times", type=int, default=2000, help="questions a round (default: 2000)")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    options = parser.parse_args(arguments)
    if options.rounds < 1 or options.times < 1:
        parser.error("--rounds and --times must be above 0")
    configure()
    rows = measure(options.rounds, options.times)
    if options.json:
        print(json.dumps(rows, indent=2))
    else:
        print(f"{'':22} us a question (quickest tenth), of {options.rounds} rounds")
        for row in rows:
            print(f"{row['question']:22} {row['median']:6.2f} ({row['quick']:.2f})")
    [scoped] = [row for row in rows if row["question"] == "ours, in a scope"]
    if scoped["quick"] > TARGET:
        print(f"above the target of {TARGET:g} us", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""A lease by itself: ours beside psycopg_pool's and SQLAlchemy's pools, and a held connection.

What it costs to acquire and to release, without and with a statement in between; what a reset adds,
where there is nothing to reset and where there is; and how threads share few connections.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import threading
from collections.abc import Iterator, Mapping
from time import perf_counter
from typing import Final

from django_poolkit.testing import Cluster
from tests.benchmarks.figures import Row, number, summed
from tests.benchmarks.micro_pools import (
    ALCHEMY,
    ALWAYS,
    ASKING,
    CHECKED,
    MARK,
    OURS,
    PATIENCE,
    RAW,
    RESETTING,
    SELECT,
    SIZE,
    THEIRS,
    Contestant,
    Cycle,
    contestants,
)

READING: Final = f"""
contestants:
  {RAW:31} one connection for each thread, and no pool: the floor
  {OURS:31} ConnectionPool; it looks at each connection, and resets those that need it
  {ALWAYS:31} the same with reset="always"
  {THEIRS:31} psycopg_pool.ConnectionPool; it looks at none, and resets nothing
  {CHECKED:31} the same with check=ConnectionPool.check_connection
  {RESETTING:31} the same with a reset, in its worker
  {ALCHEMY:31} of an engine whose driver is psycopg, by raw_connection()
  {ASKING:31} the same with pool_pre_ping=True

All have {SIZE} connections in autocommit, and prepare nothing.

measures:
  acquire, release         nothing in between
  clean                    {SELECT} in between: nothing is left behind
  dirty                    {MARK} in between, by those that do not leave that to
                           who comes next
  {SELECT}, N threads     as many as can be, again and again

how to read the table:
  The contestants take turns in short rounds, in an order that is drawn anew each time. Of those
  the median is shown with the lowest and the highest: microseconds by the clock, or times a second
  by all threads together. "jain" is Jain's index of how often each thread was served, the least of
  the rounds (1.0: all alike), "longest" the longest that a thread waited for a connection and its
  statement, in ms.
  Compare within a measure.

examples:
  python -m tests.benchmarks.micro                       a minute or two
  python -m tests.benchmarks.micro --rounds 40           for figures that are to be quoted
  python -m tests.benchmarks.micro --json > run.json     the same rows, for another program
"""


def alone(everyone: list[Contestant], rounds: int, times: int) -> Iterator[Row]:
    """Have each use its pool with nobody else there; the first round warms up."""
    for measure, statement, share in (
        ("acquire, release", None, 5),
        ("clean", SELECT, 1),
        ("dirty", MARK, 1),
    ):
        who = [each for each in everyone if each.takes_part(statement)]
        found: dict[str, list[float | None]] = {each.name: [] for each in who}
        for number_of_round in range(rounds + 1):
            for each in random.sample(who, len(who)):
                us = _timed(each.cycle(statement), times * share)
                if number_of_round:
                    found[each.name].append(us)
        for name, values in found.items():
            yield {"measure": measure, "contestant": name, **summed(values, "us")}


def _timed(cycle: Cycle, times: int) -> float:
    started = perf_counter()
    for _ in range(times):
        cycle()
    return (perf_counter() - started) / times * 1e6


def crowd(who: Contestant, threads: int, seconds: float) -> Mapping[str, float]:
    """Have so many threads do it again and again; return how they were served.

    Raises threading.BrokenBarrierError where one of them could not begin.
    """
    cycle = who.cycle(SELECT)
    served, waits = [0] * threads, [0.0] * threads
    begin = threading.Barrier(threads + 1)

    def work(index: int) -> None:
        try:
            cycle()
            begin.wait(PATIENCE)
            end = perf_counter() + seconds
            while (started := perf_counter()) < end:
                cycle()
                waits[index] = max(waits[index], perf_counter() - started)
                served[index] += 1
        except BaseException:
            begin.abort()
            raise
        finally:
            who.leave()

    crew = [threading.Thread(target=work, args=(index,), daemon=True) for index in range(threads)]
    for thread in crew:
        thread.start()
    begin.wait(PATIENCE)
    started = perf_counter()
    for thread in crew:
        thread.join()
    total = sum(served)
    return {
        "rate": total / (perf_counter() - started),
        "jain": total**2 / (threads * sum(count**2 for count in served)),
        "longest": max(waits) * 1000,
    }


def contended(everyone: list[Contestant], rounds: int, seconds: float) -> Iterator[Row]:
    """Have threads share the pools; the first round warms up."""
    who = [each for each in everyone if not each.resets]
    for threads in (SIZE, 64):
        found: dict[str, list[Mapping[str, float]]] = {each.name: [] for each in who}
        for number_of_round in range(rounds + 1):
            for each in random.sample(who, len(who)):
                one = crowd(each, threads, seconds)
                if number_of_round:
                    found[each.name].append(one)
        for name, several in found.items():
            row: Row = {"measure": f"{SELECT}, {threads} threads", "contestant": name}
            yield {
                **row,
                **summed([one["rate"] for one in several], "rate"),
                "jain": min(one["jain"] for one in several),
                "longest": max(one["longest"] for one in several),
            }


def show(row: Row) -> str:
    """Return a row of the table."""
    key = "us" if "us" in row else "rate"
    cell = f"{number(row[key])} ({number(row[f'{key}_low'])}-{number(row[f'{key}_high'])})"
    more = f"  jain {row['jain']:.4f}, longest {number(row['longest'])}" if "jain" in row else ""
    return f"{row['measure']:24} {row['contestant']:31} {cell:>28} {key}{more}"


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.micro",
        description=__doc__,
        epilog=READING,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    parser.add_argument("--rounds", type=int, default=9, help="of each (9); of crowds a third")
    parser.add_argument("--times", type=int, default=400, help="that a round has (400)")
    parser.add_argument("--seconds", type=float, default=1.0, help="of a crowd's round (1)")
    options = parser.parse_args(arguments)
    if min(options.rounds, options.times, options.seconds) <= 0:
        parser.error("--rounds, --times and --seconds have to be above 0")
    return options


def main(arguments: list[str] | None = None) -> None:
    """Measure, and print."""
    options = parsed(arguments)
    found: list[Row] = []
    with (
        Cluster(settings={"max_connections": "200"}) as cluster,
        contestants(cluster.primary) as everyone,
    ):
        for rows in (
            alone(everyone, options.rounds, options.times),
            contended(everyone, max(1, options.rounds // 3), options.seconds),
        ):
            for row in rows:
                found.append(row)
                if not options.json:
                    print(show(row), flush=True)
    if options.json:
        json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()

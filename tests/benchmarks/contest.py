"""What a lease costs a task, and how fair its queue is: the contest of pools, whatever the driver.

Contestants take turns in short rounds, so that what befalls the machine befalls all of them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

from django_poolkit.testing import Cluster, Node

HELD, OURS, THEIRS = "held", "ours", "theirs"
TASKS, CONNECTIONS = 100, 10
"""Of the contest for fairness."""

Row = dict[str, Any]
Query = Callable[[], Awaitable[Any]]
Enter = Callable[[], AbstractAsyncContextManager[Any]]


async def turns(queries_of: Mapping[str, Query], rounds: int, queries: int) -> list[Row]:
    """Have each run its query, round after round; return a row for each, in microseconds."""
    times: dict[str, list[float]] = {name: [] for name in queries_of}
    for number in range(rounds + 1):
        for name, query in queries_of.items():
            us = await _round(query, queries)
            if number:  # the first warms up
                times[name].append(us)
    return [
        {
            "contestant": name,
            "us": statistics.median(found),
            "least": min(found),
            "most": max(found),
        }
        for name, found in times.items()
    ]


async def _round(query: Query, queries: int) -> float:
    started = time.perf_counter()
    for _ in range(queries):
        await query()
    return (time.perf_counter() - started) / queries * 1e6


async def crowd(name: str, enter: Enter, query: Callable[[Any], Any], seconds: float) -> Row:
    """Have many tasks share few connections for a time; return how they were served."""
    served, waits = [0] * TASKS, [0.0] * TASKS
    end = time.perf_counter() + seconds

    async def work(number: int) -> None:
        while (started := time.perf_counter()) < end:
            async with enter() as connection:
                waits[number] = max(waits[number], time.perf_counter() - started)
                await query(connection)
            served[number] += 1

    await asyncio.gather(*(work(number) for number in range(TASKS)))
    total = sum(served)
    return {
        "contestant": name,
        "per second": total / seconds,
        "longest wait": max(waits) * 1000,
        "jain": total**2 / (TASKS * sum(count**2 for count in served)),
    }


def table(rows: list[Row]) -> str:
    """Return rows as text, in columns."""
    lines = ["  ".join(f"{name:>12}" for name in rows[0])]
    for row in rows:
        cells = [v if isinstance(v, str) else f"{v:.3f}" for v in row.values()]
        lines.append("  ".join(f"{cell:>12}" for cell in cells))
    return "\n".join(lines)


def run(
    description: str | None,
    reading: str,
    cost: Callable[[Node, int, int], Awaitable[list[Row]]],
    fairness: Callable[[Node, float], Awaitable[list[Row]]],
    arguments: list[str] | None,
) -> None:
    """Be the program: measure on a cluster of its own, and print."""
    parser = argparse.ArgumentParser(
        description=description,
        epilog=reading,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--queries", type=int, default=200, help="of each round")
    parser.add_argument("--seconds", type=float, default=3.0, help="of the second table, a pool")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)

    async def measure(node: Node) -> tuple[list[Row], list[Row]]:
        costs = await cost(node, options.rounds, options.queries)
        return costs, await fairness(node, options.seconds)

    with Cluster() as cluster:
        costs, fair = asyncio.run(measure(cluster.primary))
    if options.json:
        json.dump({"cost": costs, "fairness": fair}, sys.stdout)
        return
    print(table(costs), table(fair), sep="\n\n")
    us = {row["contestant"]: row["us"] for row in costs}
    print(
        f"\nours takes {us[OURS] - us[HELD]:+.1f} us beside held ({us[OURS] / us[HELD]:.2f} x); "
        f"theirs takes {us[THEIRS] / us[OURS]:.2f} x ours"
    )

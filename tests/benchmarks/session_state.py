"""What a verdict on a statement costs: `python -m tests.benchmarks.session_state`.

Prints nanoseconds a verdict, a character, and the ratio to the same kind of text at an eighth of
the length (8 where the cost is linear). Nothing is asserted: a machine has other things to do.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from django_poolkit.pools.session_state import StatementRules

Row = dict[str, Any]

QUERY = (
    'SELECT "shop_order"."id", "shop_order"."customer_id", "shop_order"."total",'
    ' COUNT("shop_line"."id") AS "n" FROM "shop_order" INNER JOIN "shop_line" ON'
    ' ("shop_order"."id" = "shop_line"."order_id") WHERE ("shop_order"."id" = %s AND'
    ' UPPER("shop_order"."name"::text) LIKE UPPER(%s)) GROUP BY 1 LIMIT 21'
)
FETCH = (
    'SELECT "shop_order"."id", "shop_order"."name" FROM "shop_order" WHERE "shop_order"."id" = %s'
)
COLUMNS = ", ".join(f'"shop_order"."column_{number}"' for number in range(45))
HEAD = 'INSERT INTO "shop_line" ("order_id", "name", "price") VALUES '


def _rows(length: int) -> str:
    return HEAD + ", ".join(["(%s, %s, %s)"] * (length // 14))


def _literals(length: int) -> str:
    rows = (f"({number}, 'it''s line {number}', 17.5)" for number in range(length // 36))
    return HEAD + ", ".join(rows)


def _numbers(length: int) -> str:
    return f"SELECT a FROM t WHERE id IN ({', '.join(map(str, range(length // 7)))})"


def _placeholders(length: int) -> str:
    return f"SELECT a FROM t WHERE id IN ({', '.join(['%s'] * (length // 4))})"


def _calls(length: int) -> str:
    return f"SELECT {', '.join(['lower(a)'] * (length // 10))} FROM t"


def _comments(length: int) -> str:
    return "SELECT 1" + " /* a */ -- it's b\n" * (length // 19)


def _one_string(length: int) -> str:
    return f"INSERT INTO t (a) VALUES ('{'f(x) ' * (length // 5)}')"


SHORT = {
    f"SELECT, {len(FETCH)} characters": FETCH,
    f"SELECT with calls, {len(QUERY)} characters": QUERY,
    "SELECT, 1.4 kB": f"SELECT {COLUMNS} FROM shop_order WHERE shop_order.id = %s",
    "INSERT of rows, 2 kB": _rows(1900),
    "SET LOCAL": "SET LOCAL statement_timeout = 500",
}
LONG: dict[str, Callable[[int], str]] = {
    "INSERT of placeholders": _rows,
    "INSERT of literals": _literals,
    "INSERT of one string": _one_string,
    "IN list of placeholders": _placeholders,
    "IN list of numbers": _numbers,
    "calls": _calls,
    "comments": _comments,
}
LENGTHS = (15_625, 125_000, 1_000_000)


def best(work: Callable[[], object], times: int, runs: int) -> float:
    """Return the least seconds that one call of `work` took, over `runs` times `times` calls."""
    least = float("inf")
    for _ in range(runs):
        start = time.perf_counter()
        for _ in range(times):
            work()
        least = min(least, (time.perf_counter() - start) / times)
    return least


def remembered(text: str, runs: int) -> float:
    """Return the seconds of a verdict that was given before, of a text built anew."""
    rules = StatementRules()
    rules.residue(text)
    copies = [text[:-1] + text[-1:] for _ in range(2000)]
    least = float("inf")
    for _ in range(runs):
        copies = [copy[:-1] + copy[-1:] for copy in copies]
        start = time.perf_counter()
        for copy in copies:
            rules.residue(copy)
        least = min(least, (time.perf_counter() - start) / len(copies))
    return least


def first(text: str, times: int, runs: int) -> float:
    """Return the seconds of the first verdict on `text`."""
    whole = best(lambda: StatementRules().residue(text), times, runs)
    return whole - best(StatementRules, times, runs)


def measure(runs: int) -> Iterator[Row]:
    """Provide a row for each kind of text, its remembered and its first verdict."""
    for name, text in SHORT.items():
        yield {"measure": name, "contestant": "remembered", "ns": remembered(text, runs) * 1e9}
        yield {"measure": name, "contestant": "first", "ns": first(text, 300, runs) * 1e9}


def measure_long(runs: int) -> Iterator[Row]:
    """Provide a row for each kind of long text and its length."""
    for name, make in LONG.items():
        before = 0.0
        for length in LENGTHS:
            text = make(length)
            took = first(text, max(1, 200_000 // length), runs) * 1e9
            yield {
                "measure": f"{name}, {length // 1000:,} kB", "contestant": "first", "ns": took,
                "length": len(text), "ratio": took / before if before else None,
            }  # fmt: skip
            before = took


def main(arguments: list[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.session_state", description=__doc__
    )
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    parser.add_argument("--runs", type=int, default=9, help="of which the quickest counts (9)")
    options = parser.parse_args(arguments)
    if options.runs < 1:
        parser.error("--runs must be above 0")
    short, long = measure(options.runs), measure_long(options.runs)
    if options.json:
        json.dump([*short, *long], sys.stdout)
        return
    print(f"{'':34}{'remembered':>14}{'first':>14}")
    for known, new in zip(short, short, strict=True):
        print(f"{known['measure']:34}{known['ns']:11,.0f} ns{new['ns']:11,.0f} ns")
    print(f"\n{'':34}{'length':>12}{'ns':>14}{'ns/char':>9}{'ratio':>8}")
    for row in long:
        ratio = f"{row['ratio']:8.1f}" if row["ratio"] else f"{'':8}"
        each = row["ns"] / row["length"]
        print(f"{row['measure']:34}{row['length']:12,}{row['ns']:14,.0f}{each:9.2f}{ratio}")


if __name__ == "__main__":
    main()

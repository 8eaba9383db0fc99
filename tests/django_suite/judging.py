"""Run the suite on each backend in turn, and compare."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from django_poolkit.testing import Node
from tests.django_suite.comparing import Comparison, compare
from tests.django_suite.known import IN_BRIDGE, KNOWN
from tests.django_suite.outcomes import Outcomes
from tests.django_suite.report import Ran, Report
from tests.django_suite.running import Say, Task, run
from tests.django_suite.variants import STOCK, Mode, Variant, Way

MOST = 3
"""Up to so many differences are looked at once more."""

Run = Callable[[Variant], Outcomes]
"""Runs what is to be compared on one backend."""


def versions(server: str) -> dict[str, str]:
    """Return what the outcomes are of, as people name it."""
    return {
        "Django": importlib.metadata.version("django"),
        "Python": platform.python_version(),
        "PostgreSQL": server,
        "psycopg": importlib.metadata.version("psycopg"),
    }


def series() -> str:
    """Return the series of the installed Django, like `6.1`."""
    return ".".join(importlib.metadata.version("django").split(".")[:2])


class Judge:
    """Compares our backend with the stock one, over one task."""

    def __init__(self, task: Task, node: Node, home: Path, say: Callable[[Variant], Say]) -> None:
        self._task = task
        self._node = node
        self._home = home
        self._say = say

    def judge(self, report: Report, modes: Sequence[Mode], *, fresh: bool) -> None:
        """Fill the report.

        Raises:
            SuiteError: a run did not come to its end.
        """
        stock = self._stock(fresh=fresh)
        report.runs.append(stock)
        for mode in modes:
            ran = judge_mode(
                stock.outcomes,
                self._run,
                mode,
                series=series(),
                both_ways=self._task.autocommit,
                way=self._task.way,
            )
            report.runs.append(ran)

    def _stock(self, *, fresh: bool) -> Ran:
        with self._node.connect() as connection:
            version = connection.execute("SELECT version()").fetchone()
        path = self._home / "stock" / f"{self._task.key(str(version))}.json"
        if not fresh and (kept := Outcomes.load(path)) is not None:
            return Ran(STOCK, kept, kept=True)
        outcomes = self._run(STOCK)
        path.parent.mkdir(parents=True, exist_ok=True)
        outcomes.save(path)
        return Ran(STOCK, outcomes)

    def _run(self, variant: Variant) -> Outcomes:
        logs = self._home / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        how = "-autocommit" if self._task.autocommit else ""
        log = logs / f"django-{series()}-{variant.name}{how}.log"
        return run(self._task, variant, self._node, log, self._say(variant))


def judge_mode(
    stock: Outcomes,
    run: Run,
    mode: Mode,
    *,
    series: str,
    both_ways: bool = False,
    way: Way = "threads",
) -> Ran:
    """Run one mode of ours and compare it. A few differences have to show twice.

    Many of Django's tests have threads, sockets and clocks, and a busy machine fails one of
    them now and then. What shows once only is named all the same.
    """
    variant = Variant(mode, way)

    def compared(outcomes: Outcomes) -> Comparison:
        known = (*KNOWN, *IN_BRIDGE)
        return compare(
            stock, outcomes, known, mode=mode, series=series, both_ways=both_ways, way=way
        )

    outcomes = run(variant)
    found = compared(outcomes)
    if not 0 < len(found.new) <= MOST:
        return Ran(variant, outcomes, found)
    names = ", ".join(each.test for each in found.new)
    print(f"{variant.name}: {names}: different, so once more", file=sys.stderr, flush=True)
    if any(each.ours == "passed" for each in found.new):
        stock = run(STOCK)  # it is theirs that failed
    again = {each.test for each in compared(run(variant)).new}
    unsteady = tuple(each for each in found.new if each.test not in again)
    steady = tuple(each for each in found.differences if each not in unsteady)
    return Ran(variant, outcomes, replace(found, differences=steady), unsteady)

"""The program that prints what the async ORM costs: it runs, with all contestants."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.benchmarks import async_orm as program

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    # Of its own: it sets Django up otherwise than the tests have it.
    command = [sys.executable, "-m", "tests.benchmarks.async_orm", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120.0)


def test_it_measures_each_contestant() -> None:
    done = run("--json", "--rounds", "1", "--queries", "5", "--tasks", "12", "20", "--uvloop")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    everyone = [program.SYNC, program.ONE_CALL, program.OURS, program.DJANGO, program.SHARED]
    crowds = [program.OURS, program.DJANGO]
    if f"without {program.NATIVE}: " not in done.stderr:  # which wants a new Python and Django
        everyone.append(program.NATIVE)
        crowds.append(program.NATIVE)
    assert [row["contestant"] for row in found["queries"]] == everyone
    assert all(0 < row["least"] <= row["cpu"] for row in found["queries"])
    pairs = [(row["contestant"], row["tasks"]) for row in found["crowds"]]
    assert pairs == [(name, n) for n in (12, 20) for name in crowds]
    ours, theirs = found["crowds"][len(crowds) :][:2]
    assert theirs["threads"] > ours["threads"] > 0  # a thread a request there, and none here


def test_its_help_says_how_to_read_the_tables() -> None:
    text = run("--help").stdout
    ours = program.SYNC, program.ONE_CALL, program.OURS
    theirs = program.DJANGO, program.SHARED, program.NATIVE
    for word in (*ours, *theirs, "median", "--uvloop"):
        assert word in text

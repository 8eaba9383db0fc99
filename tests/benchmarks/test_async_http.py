"""The program that sets ours beside Django's own async ORM over HTTP: it runs, and counts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks import async_http
from tests.benchmarks.async_http import LOOP, THEIRS, THREADS, VIEWS

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.benchmarks.async_http", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=170.0)


def test_it_measures_each_contestant_with_the_views_that_were_asked_for() -> None:
    around = list(VIEWS)[-1]
    done = run("--json", "--clients", "100", "--seconds", "0.5", "--views", around)
    assert (done.returncode, done.stderr) == (0, "")
    rows = {row["contestant"]: row for row in json.loads(done.stdout)}
    assert set(rows) == {THEIRS, THREADS, LOOP}
    for row in rows.values():
        assert (row["view"], row["clients"], row["failed"]) == (around, 100, 0)
        assert row["requests"] >= 100
        assert row["throughput"] > 0
        assert row["p99"] > 0.1
        assert 0 < row["connections"] <= 20
        assert row["cpu"] > 0
        assert row["memory"] > 2**20
        assert row["to_django"] == pytest.approx(row["cpu"] / rows[THEIRS]["cpu"])
    # A hundred are under way at once: with a thread each, or not.
    assert rows[LOOP]["threads"] < 50 < rows[THEIRS]["threads"]


def test_who_takes_a_thread_a_request_sits_out_where_there_are_too_many() -> None:
    options = async_http.parsed(["--threads-up-to", "500"])
    assert [one.name for one in async_http.takers(500, options)] == [THEIRS, THREADS, LOOP]
    assert [one.name for one in async_http.takers(501, options)] == [LOOP]


def test_its_help_says_how_to_read_the_table() -> None:
    text = run("--help").stdout
    for word in (THEIRS, THREADS, LOOP, "to Django", "p99", "--short", "--rounds", "--clients"):
        assert word in text


@pytest.mark.parametrize(
    "arguments",
    [["--clients", "0"], ["--clients", "20001"], ["--seconds", "0"], ["--rounds", "0"],
     ["--views", "four queries"]],
)  # fmt: skip
def test_options_that_make_no_sense_are_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit):
        async_http.parsed(arguments)

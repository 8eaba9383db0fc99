"""The summary: what it shows, and when a promise counts as broken."""

from __future__ import annotations

import json
from collections import Counter
from io import StringIO

import pytest
from rich.console import Console

from example_project.measures import Measures
from example_project.report import RUNS, legend, line, table, verdicts
from example_project.serving import Shape

SHAPE = Shape(pool_size=8, threads=48)


def measured(**changes) -> Measures:
    values = {
        "seconds": 10.0,
        "latencies": [0.1] * 990 + [0.5] * 10,
        "kinds": Counter(product=1_000),
        "faultless": 1_000,
        "peak_in_flight": 48,
        "peak_connections": 16,
    }
    return Measures(**{**values, **changes})


def results(**changes) -> dict[str, Measures]:
    """Four runs as they should be, but for those that `changes` names."""
    killed = {"killed": 16, "failures": Counter(AdminShutdown=9), "alone": [0.02] * 6}
    good = {run.key: measured(**(killed if run.kill else {})) for run in RUNS}
    return {**good, **changes}


def text_of(runs: dict[str, Measures]) -> str:
    console = Console(file=StringIO(), width=100)
    console.print(table(runs, SHAPE))
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def kept(runs: dict[str, Measures]) -> list[bool]:
    return [verdict.kept for verdict in verdicts(runs, SHAPE)]


def test_runs_that_are_as_promised_keep_every_promise():
    assert kept(results()) == [True] * 5


@pytest.mark.parametrize(
    ("key", "measures", "broken"),
    [
        ("poolkit", measured(failures=Counter({"503": 1})), 0),
        ("poolkit", measured(latencies=[], kinds=Counter()), 0),
        ("poolkit", measured(peak_connections=17), 1),
        ("poolkit", measured(peak_connections=0), 1),
        ("poolkit_killed", measured(killed=0, alone=[0.1]), 2),
        ("poolkit_killed", measured(killed=9, failures=Counter(x=10), alone=[0.1]), 2),
        ("poolkit_killed", measured(killed=9, alone=[0.1], alone_failed=1), 3),
        ("poolkit_killed", measured(killed=9), 3),
        ("poolkit_killed", measured(killed=9, alone=[0.1], faultless=99), 4),
    ],
)
def test_a_promise_that_the_measurements_break_is_called_broken(key, measures, broken):
    outcome = kept(results(**{key: measures}))

    assert [number for number, fine in enumerate(outcome) if not fine] == [broken]


def test_what_djangos_own_pool_does_is_shown_and_not_judged():
    bad = measured(failures=Counter(PoolTimeout=500), faultless=0, peak_connections=99)

    assert all(kept(results(django=bad, django_killed=bad)))


def test_the_table_shows_the_runs_side_by_side():
    text = text_of(results(django=measured(latencies=[0.25] * 100)))

    row = next(row for row in text.splitlines() if "p50" in row)
    assert [cell.strip() for cell in row.split("│")[2:6]] == ["100 ms", "250 ms"] + ["100 ms"] * 2
    assert "at most 16 connections" in text
    assert "6 within 20 ms" in text


def test_the_table_shows_only_runs_that_have_begun():
    text = text_of({"poolkit": measured()})

    assert "poolkit" in text
    assert "Django" not in text


def test_the_legend_names_each_kind_of_failure():
    runs = results(django=measured(failures=Counter(PoolTimeout=2, AdminShutdown=1)))

    assert "Failed with Django's: 2 PoolTimeout, 1 AdminShutdown." in legend(runs)
    assert "Failed with poolkit:" not in legend(runs)


def test_a_run_can_be_followed_by_lines():
    text = line(measured(failures=Counter({"503": 3, "AdminShutdown": 2})))

    assert "1,005 requests" in text
    assert "timeouts 3  errors 2" in text


def test_the_measurements_can_be_written_down():
    written = json.loads(json.dumps(measured(failures=Counter({"503": 3})).as_json()))

    assert written["requests"] == 1_003
    assert written["failures"] == {"503": 3}
    assert (written["p50"], written["p99"], written["max"]) == (0.1, 0.1, 0.5)
    assert "latencies" not in written

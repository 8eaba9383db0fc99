"""What is said of a flood, and when a promise of it counts as broken."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from example_project.flood_report import (
    MOST_THREADS,
    announcement,
    legend,
    progress,
    table,
    verdicts,
)
from example_project.measures import Measures
from example_project.vitals import Vitals
from example_project.waves import Outcome, waves

FLOOD, BESIDE = waves(10_000, 500)


def outcome(wave=FLOOD, **changes: Any) -> Outcome:
    report: dict[str, Any] = {
        "requests": 20_000,
        "failures": {},
        "throughput": 400.0,
        "p50": 20.0,
        "p99": 30.0,
        "peak_in_flight": wave.clients,
    }
    report |= {name: changes.pop(name) for name in list(changes) if name in report}
    values: dict[str, Any] = {
        "connections": 20,
        "at_supplier": 900,
        "threads_before": 12,
        "files": 11_000,
        "threads": 13,
    }
    values |= {"memory": 300 * 2**20, "cpu": 40.0}
    return Outcome(wave, report, **{**values, **changes})


def kept(**changes: Any) -> list[bool]:
    return [verdict.kept for verdict in verdicts(outcome(**changes))]


def text_of(*outcomes: Outcome) -> str:
    console = Console(file=StringIO(), width=80)
    console.print(table(outcomes))
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def row_of(text: str, label: str) -> list[str]:
    (row,) = (row for row in text.splitlines() if label in row)
    return [cell.strip() for cell in row.split("│")[2:-1]]


def test_ten_thousand_set_out_within_ten_seconds():
    assert FLOOD.ramp == 10.0
    text = announcement(FLOOD, 8.0)
    for words in ("10,000 clients set out within 10 s", "for 8 s more", "timeout=60", "of 20 conn"):
        assert words in text


def test_the_waves_differ_in_engine_and_number_and_nothing_else():
    ours, theirs = dict(FLOOD.variables), dict(BESIDE.variables)

    assert (FLOOD.clients, BESIDE.clients) == (10_000, 500)
    assert (FLOOD.page, FLOOD.application) == (BESIDE.page, BESIDE.application)
    assert {name: value for name, value in ours.items() if theirs.get(name) != value} == {
        "SHOP_BACKEND": "poolkit",
        "SHOP_POOL_MODE": "transaction",
        "SHOP_ASYNC_ORM": "on",
    }
    assert set(theirs) <= set(ours)
    assert waves(300, 0) == (replace(FLOOD, clients=300),)


def test_the_table_shows_the_waves_side_by_side():
    django = outcome(BESIDE, requests=4_000, cpu=16.4, threads=517, failures={"500": 7})
    text = text_of(outcome(), django)

    assert row_of(text, "requests in flight") == ["10,000", "500"]
    assert row_of(text, "requests finished") == ["20,000", "4,000"]
    assert row_of(text, "failed") == ["0", "7"]
    assert row_of(text, "p99") == ["30,000 ms", "30,000 ms"]
    assert row_of(text, "threads, peak") == ["13", "517"]
    assert row_of(text, "memory") == ["300 MiB", "300 MiB"]
    assert row_of(text, "CPU of the site") == ["2.00 ms", "4.10 ms"]
    assert legend([outcome(), django]) == "Failed with Django's own async ORM: 7 with 500.\n"


def test_a_line_says_how_it_goes():
    report = {"seconds": 12.3, "in_flight": 9_876, "requests": 4_321, "throughput": 351.0}
    watch: Any = SimpleNamespace(last=Vitals(threads=14, files=11, memory=200 * 2**20, cpu=3.0))
    text = progress({**report, "failures": {"503": 2, "500": 1}}, watch, Measures(connections=20))

    for words in ("12.3 s", "9,876", "4,321", "351/s", "failed 3", "20", "threads   14", "200 MiB"):
        assert words in text


def test_a_flood_as_it_should_be_keeps_all_promises():
    assert kept() == [True] * 3


@pytest.mark.parametrize(
    ("changes", "broken"),
    [
        ({"failures": {"503": 1}}, 0),
        ({"requests": 9_999}, 0),
        ({"peak_in_flight": 9_999}, 1),
        ({"files": 9_999}, 1),
        ({"connections": 21}, 1),
        ({"connections": 0}, 1),
        ({"threads": MOST_THREADS + 1}, 2),
    ],
)
def test_a_promise_that_is_not_kept_is_told(changes: dict[str, Any], broken: int):
    assert kept(**changes) == [number != broken for number in range(3)]

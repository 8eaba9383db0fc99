"""The summary: what it shows, and that it shows nothing else than what was measured."""

from __future__ import annotations

import json
from collections import Counter
from io import StringIO

from rich.console import Console

from example_project.measures import Measures
from example_project.report import conclusion, legend, line, table
from example_project.runs import Load, loads, runs_of
from example_project.serving import Shape

SHAPE = Shape(pool_size=4, threads=200)
EVERYDAY, CROWD, OUTAGE = LOADS = loads(48, 200)


def measured(**changes) -> Measures:
    values = {
        "seconds": 10.0,
        "latencies": [0.1] * 990 + [0.5] * 10,
        "kinds": Counter(product=1_000),
        "faultless": 1_000,
        "peak_in_flight": 48,
        "peak_connections": 8,
    }
    return Measures(**{**values, **changes})


def results(load: Load, *measures: Measures) -> dict[str, Measures]:
    return {run.key: values for run, values in zip(runs_of(load), measures, strict=True)}


def text_of(runs: dict[str, Measures], load: Load) -> str:
    console = Console(file=StringIO(), width=80)
    console.print(table(runs, SHAPE, load))
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def row_of(text: str, label: str) -> list[str]:
    (row,) = (row for row in text.splitlines() if label in row)
    return [cell.strip() for cell in row.split("│")[2:-1]]


def test_the_table_shows_the_runs_side_by_side():
    runs = results(
        CROWD,
        measured(peak_in_flight=200, peak_at_supplier=196),
        measured(peak_in_flight=199, peak_at_supplier=7, failures=Counter({"503": 30, "500": 2})),
        measured(peak_in_flight=198, peak_at_supplier=6, latencies=[0.25] * 100),
    )
    text = text_of(runs, CROWD)

    assert "A supplier that takes 2 s: 200 requests in flight, at most 8 connections" in text
    assert row_of(text, "p50") == ["100 ms", "100 ms", "250 ms"]
    assert row_of(text, "requests in flight, peak") == ["200", "199", "198"]
    assert row_of(text, "waiting for the supplier, peak") == ["196", "7", "6"]
    assert row_of(text, "connections, peak") == ["8", "8", "8"]
    assert row_of(text, "timeouts") == ["0", "30", "0"]
    assert row_of(text, "other errors") == ["0", "2", "0"]
    assert "killed" not in text


def test_the_table_of_an_outage_shows_what_it_did():
    killed = measured(killed=16, alone=[0.02] * 6, faultless=321)
    worse = measured(killed=15, alone=[0.02, 3.1], alone_failed=1, faultless=0)
    text = text_of(results(OUTAGE, killed, killed, worse), OUTAGE)

    assert row_of(text, "backends killed") == ["16", "16", "15"]
    assert row_of(text, "after a kill when idle") == ["6 within", "6 within", "2 within"]
    assert row_of(text, " 20 ms") == ["20 ms", "20 ms", "3,100 ms"]
    assert text.count("none failed") == 2
    assert "1 failed" in text
    assert row_of(text, "since the last failure") == ["321", "321", "0"]


def test_the_table_shows_only_runs_that_have_begun():
    first, *_ = runs_of(OUTAGE)
    text = text_of({first.key: measured()}, OUTAGE)

    assert "transaction" in text
    assert "session" not in text
    assert "Django" not in text
    assert row_of(text, "after a kill when idle") == ["-"]


def test_the_legend_names_each_kind_of_failure():
    failed = measured(failures=Counter(PoolTimeout=2, AdminShutdown=1))
    text = legend(results(EVERYDAY, measured(), measured(), failed), EVERYDAY)

    assert text == "Failed with Django's own pool: 2 with PoolTimeout, 1 with AdminShutdown.\n"
    assert "terminated" in legend({}, OUTAGE)


def test_a_run_can_be_followed_by_lines():
    text = line(measured(failures=Counter({"503": 3, "AdminShutdown": 2})))

    assert "1,005 requests    100 well/s" in text
    assert "timeouts 3  errors 2" in text


def test_the_conclusion_says_what_each_run_came_to():
    in_crowd = [
        measured(peak_at_supplier=196),
        measured(peak_at_supplier=7, latencies=[2.0] * 60, failures=Counter({"503": 540})),
        measured(peak_at_supplier=6, peak_connections=5, latencies=[2.0] * 40),
    ]
    everyday = [measured(latencies=[0.1] * count) for count in (3_000, 2_000, 1_000)]
    killed = [
        measured(failures=Counter(x=failed), alone=[0.1] * 6, alone_failed=alone)
        for failed, alone in ((3, 0), (4, 1), (5, 2))
    ]
    runs = results(CROWD, *in_crowd) | results(EVERYDAY, *everyday) | results(OUTAGE, *killed)
    lines = conclusion(runs, SHAPE, LOADS)
    text = " ".join(lines.split())

    assert max(map(len, lines.splitlines()[:4])) <= 80
    for words in (
        "200 requests in flight, a supplier that takes 2 s, at most 8 connections:",
        "transaction mode 196 at the supplier on 8 connections; 0 of 1,000 failed",
        "session mode 7 at the supplier on 8 connections; 540 of 600 failed",
        "Django's own pool 6 at the supplier on 5 connections; 0 of 40 failed",
        "transaction mode 300, session mode 200, Django's own pool 100",
        "transaction mode 3 of 1,003, session mode 4 of 1,004, Django's own pool 5 of 1,005",
        "transaction mode 0 of 6, session mode 1 of 6, Django's own pool 2 of 6",
    ):
        assert words in text


def test_the_measurements_can_be_written_down():
    measures = measured(failures=Counter({"503": 3}), peak_at_supplier=5)
    written = json.loads(json.dumps(measures.as_json()))

    assert written["requests"] == 1_003
    assert written["failures"] == {"503": 3}
    assert (written["p50"], written["p99"], written["max"]) == (0.1, 0.1, 0.5)
    assert written["peak_at_supplier"] == 5
    assert "latencies" not in written


def test_a_later_and_smaller_count_of_the_supplier_changes_nothing():
    measures = Measures()
    for count in (3, 9, 4):
        measures.saw_at_supplier(count)

    assert measures.peak_at_supplier == 9


def test_the_run_through_pgbouncer_stands_beside_the_others():
    runs = results(CROWD, measured(), measured(), measured())
    runs["crowd_pgbouncer"] = measured(peak_connections=4)
    text = text_of(runs, CROWD)

    assert row_of(text, "connections, peak") == ["8", "8", "8", "4"]
    assert "those that it has itself" in legend(runs, CROWD)
    del runs["crowd_pgbouncer"]
    assert "itself" not in legend(runs, CROWD)
    assert "PgBouncer" not in text_of(results(CROWD, measured(), measured(), measured()), CROWD)

"""The program that prints what more of everything costs: it runs, with both contestants."""

from __future__ import annotations

import json

import pytest

from tests.benchmarks import scale, scale_fleet
from tests.benchmarks.scale_fleet import EACH, SHARED
from tests.benchmarks.scale_one import OURS, THEIRS

CROWDS = {f"{what}{kind} wait" for what in ("", "stats(), ") for kind in ("threads", "tasks")}
OF = {"pools", "workers", "acquire, leases", "stats(), leases", *CROWDS}


def test_it_measures_more_of_everything(capsys: pytest.CaptureFixture[str]) -> None:
    scale.main(
        ["--json", "--rounds", "1", "--pools", "3", "--leases", "2", "--threads", "3", "--tasks",
         "3", "--hosts", "2", "--workers", "2", "--fleet", "500", "--trial", "0.5",
         "--replicas", "1"]
    )  # fmt: skip
    found = json.loads(capsys.readouterr().out)
    rows = {(row["of"], row["contestant"]): row for row in found if "us" in row}
    alone = {(of, OURS) for of in ("hosts", "reads, replicas", "looks, replicas")}
    assert set(rows) == {(of, name) for of in OF for name in (OURS, THEIRS)} | alone
    for row in rows.values():
        assert 0 < row["us_low"] <= row["us"] <= row["us_high"]
    assert rows["workers", OURS]["leases"] > 0
    assert rows["pools", THEIRS]["threads"] > 0
    assert rows["pools", OURS]["kib"] >= 0
    fleets = {(row["of"], row["contestant"]): row for row in found if "vain" in row}
    simulated = fleets["92 connections, simulated", EACH]
    assert (simulated["count"], simulated["connections"]) == (500, 92)
    assert fleets["92 connections, simulated", SHARED]["vain"] == 0.0
    assert fleets["6 connections, tried", EACH]["connections"] <= 6


def test_what_is_simulated_of_five_hundred_is_the_same_again() -> None:
    first = list(scale_fleet.simulated([1, 500]))
    assert first[-2:] == list(scale_fleet.simulated([500]))
    each = {row["count"]: row for row in first if row["contestant"] == EACH}
    assert [each[count]["connections"] for count in (1, 500)] == [2, 92]
    # Of 500 those serve 92, whatever luck has it; the work of all would fit four times.
    assert each[500]["vain"] == pytest.approx(100 * (1 - 92 / 500), abs=3.0)
    assert each[1]["vain"] == 0.0
    shared = {row["count"]: row for row in first if row["contestant"] == SHARED}
    assert shared[500]["p99"] <= scale_fleet.TARGET
    assert shared[500]["connections"] < 92 / 2


def test_its_help_says_how_to_read_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        scale.parsed(["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    told = ["pools", "leases", "wait", "hosts", "workers", "reads,", "tried", "PgBouncer", "KiB"]
    for word in (OURS, THEIRS, *told, "exit code"):
        assert word in text


@pytest.mark.parametrize(
    "arguments",
    [
        ["--rounds", "0"],
        ["--pools", "0"],
        ["--leases", "251"],
        ["--workers", "101"],
        ["--replicas", "9"],
        ["--fleet", "0"],
        ["--trial", "0"],
    ],
)
def test_options_that_make_no_sense_are_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit):
        scale.parsed(arguments)

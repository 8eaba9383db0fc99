"""The program that prints what more of everything costs: it runs, with both contestants."""

from __future__ import annotations

import json

import pytest

from tests.benchmarks import scale
from tests.benchmarks.scale_one import OURS, THEIRS

CROWDS = {f"{what}{kind} wait" for what in ("", "stats(), ") for kind in ("threads", "tasks")}
OF = {"pools", "acquire, leases", "stats(), leases", *CROWDS}


def test_it_measures_more_of_everything(capsys: pytest.CaptureFixture[str]) -> None:
    scale.main(
        ["--json", "--rounds", "1", "--pools", "3", "--leases", "2", "--threads", "3", "--tasks",
         "3", "--hosts", "2"]
    )  # fmt: skip
    rows = {(row["of"], row["contestant"]): row for row in json.loads(capsys.readouterr().out)}
    assert set(rows) == {(of, name) for of in OF for name in (OURS, THEIRS)} | {("hosts", OURS)}
    for row in rows.values():
        assert 0 < row["us_low"] <= row["us"] <= row["us_high"]
    assert rows["pools", THEIRS]["threads"] > 0
    assert rows["pools", OURS]["kib"] >= 0


def test_its_help_says_how_to_read_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        scale.parsed(["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    for word in (OURS, THEIRS, "pools", "leases", "wait", "hosts", "KiB", "exit code"):
        assert word in text


@pytest.mark.parametrize("arguments", [["--rounds", "0"], ["--pools", "0"], ["--leases", "251"]])
def test_options_that_make_no_sense_are_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit):
        scale.parsed(arguments)

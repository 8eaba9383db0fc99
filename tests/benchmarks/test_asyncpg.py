"""The program that prints what a lease of an asyncpg pool costs: it runs, and is fair."""

from __future__ import annotations

import json

import pytest

from tests.benchmarks import asyncpg as program
from tests.benchmarks.contest import HELD, OURS, THEIRS


def test_it_measures_each_contestant(capsys: pytest.CaptureFixture[str]) -> None:
    program.main(["--json", "--rounds", "1", "--queries", "20", "--seconds", "0.5"])
    found = json.loads(capsys.readouterr().out)
    names = [HELD, OURS, THEIRS, program.BARE]
    assert [row["contestant"] for row in found["cost"]] == names
    assert all(0 < row["least"] <= row["us"] for row in found["cost"])
    ours, theirs = found["fairness"]
    assert (ours["contestant"], theirs["contestant"]) == (OURS, THEIRS)
    assert ours["jain"] > 0.9

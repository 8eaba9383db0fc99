"""The program that prints what a statement costs: it runs, and says what it left out."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks import statement

ROOT = Path(__file__).parents[2]
MEASURES = {"empty cursor", "SELECT 1", "Model.objects.get()", "connect and close"}
OURS = {"ours, session mode", "ours, transaction mode", "ours, pinned"}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.benchmarks.statement", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120.0)


def test_it_measures_each_contestant_and_prints_json():
    done = run("--json", "--no-fetch", "--rounds", "2", "--scale", "0.01")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    contestants = {statement.HELD, "Django's pool", *OURS}
    if importlib.util.find_spec("django_pg_real_pool") is None:
        assert f"without {statement.RIVAL}: it is not installed" in done.stderr
    else:
        contestants.add(statement.RIVAL)
    pairs = {(row["measure"], row["contestant"]) for row in rows}
    everyone = {(measure, name) for measure in MEASURES for name in contestants}
    assert pairs == everyone - {("connect and close", "ours, pinned")}
    for row in rows:
        assert 0 < row["cpu_low"] <= row["cpu"] <= row["cpu_high"]
        assert 0 < row["wall_low"] <= row["wall"] <= row["wall_high"]


def test_its_help_says_how_to_read_the_table():
    text = run("--help").stdout
    for word in (*OURS, statement.HELD, statement.RIVAL, "median", "--rounds", "x held"):
        assert word in text


def test_a_rival_that_cannot_be_had_is_named_and_stops_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        assert "--no-deps" in command
        return subprocess.CompletedProcess(command, 1, "", "ERROR: one\nERROR: no such package\n")

    monkeypatch.setattr(statement, "_RIVAL_ENGINE", "no_such_engine")
    monkeypatch.setattr(subprocess, "run", refuse)
    path = list(sys.path)
    with statement.rival(fetch=True) as missing:
        assert missing == "pip cannot install it: ERROR: no such package"
    with statement.rival(fetch=False) as missing:
        assert missing is not None
    assert sys.path == path

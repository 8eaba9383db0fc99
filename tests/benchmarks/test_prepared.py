"""The program of prepared statements: it runs, and what is prepared is prepared."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks import prepared

ROOT = Path(__file__).parents[2]


def test_it_measures_each_kind_of_query_with_and_without() -> None:
    command = [sys.executable, "-m", "tests.benchmarks.prepared", "--rounds", "1", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=170.0)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    kinds = {row["measure"] for row in found["kinds"]}
    assert {"one row by its key", "IN, 1 to 200 keys", "5,000 rows"} <= kinds
    pairs = {(row["measure"], row["contestant"]) for row in found["kinds"]}
    assert pairs == {(kind, name) for kind in kinds for name in prepared.ALIASES}
    for row in found["kinds"]:
        assert 0 < row["wall_low"] <= row["wall"] <= row["wall_high"]
        assert sys.platform != "linux" or row["server"] > 0
        assert row["to_plain"] == 1.0 or row["contestant"] != prepared.PLAIN
    assert {(row["runs"], row["contestant"]) for row in found["first"]} == {
        (runs, name) for runs in prepared.RUNS for name in (prepared.PLAIN, prepared.PREPARED)
    }
    # The server itself says that it holds a plan of each.
    assert {row["measure"] for row in found["held"]} == kinds - {"IN, 1 to 200 keys"}
    assert all(row["kib"] > 1 for row in found["held"])
    assert "to plain" in prepared.show(found)


def test_its_help_says_how_to_read_the_tables(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        prepared.parsed(["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    for word in (*prepared.ALIASES, "to plain", "KiB", "--rounds"):
        assert word in text
    with pytest.raises(SystemExit):
        prepared.parsed(["--rounds", "0"])

"""The program that prints what positions cost: it runs, and its help names what it does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.benchmarks.routing_writes", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120.0)


def test_it_does_everything_and_says_how_long_it_took():
    done = run("--json", "--rounds", "5")
    assert done.returncode == 0, done.stderr
    rows = {row["work"]: row for row in json.loads(done.stdout)}
    text = run("--help").stdout
    assert len(rows) == 7
    for name, row in rows.items():
        assert name in text
        assert 0 < row["quick"] <= row["median"]
        assert row["rounds"] == 5
    # What is known is not asked: no server is as quick as that.
    assert rows["arriving, known"]["quick"] < rows["arriving, asks"]["quick"]

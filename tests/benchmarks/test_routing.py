"""The program that prints what the router costs: it runs, and its figures fit together."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.benchmarks.routing", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120.0)


def test_it_asks_all_questions_and_judges_the_first():
    done = run("--json", "--rounds", "5", "--times", "200")
    rows = {row["question"]: row for row in json.loads(done.stdout)}
    assert len(rows) == 9
    for row in rows.values():
        assert 0 < row["quick"] <= row["median"]
        assert row["rounds"] == 5
    assert rows["ten lines"]["quick"] < rows["ours, in a scope"]["quick"]
    # An answer that overrides is found before others are looked for.
    assert rows["ours, overridden"]["quick"] < rows["ours, in a scope"]["quick"]
    missed = rows["ours, in a scope"]["quick"] > 3.0
    assert done.returncode == missed
    assert ("above the target" in done.stderr) is missed


def test_the_table_and_its_help_name_each_question():
    table = run("--rounds", "1", "--times", "20").stdout.splitlines()
    text = run("--help").stdout
    for line in table[1:]:
        assert line[:22].strip() in text
    assert len(table) == 10
    assert run("--rounds", "0").returncode == 2

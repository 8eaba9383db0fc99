"""The program that prints what a crowd of probes costs: it runs, and its figures fit together."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.benchmarks.health", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120.0)


def test_it_measures_with_and_without_and_prints_json():
    done = run("--json", "--probes", "20", "--interval", "0.1", "--rounds", "2", "--seconds", "1.2")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    first, second, third = found["without"]
    one, other = found["with"]
    assert min(one, other) > 0
    ratios = 2 * one / (first + second), 2 * other / (second + third)
    assert found["ratio"] == pytest.approx(sum(ratios) / 2)
    assert found["noise"] == pytest.approx((abs(second / first - 1) + abs(third / second - 1)) / 2)
    # However many ask, and while all connections are leased.
    assert 2 <= found["questions"] <= found["at_most"] == 4
    assert set(found["answers"]) <= {"pass", "saturated"}
    assert sum(found["answers"].values()) > 40
    assert found["slowest"] < 0.8


def test_its_help_says_how_to_read_the_figures():
    text = run("--help").stdout
    for word in ("ratio", "noise", "questions", "--probes"):
        assert word in text

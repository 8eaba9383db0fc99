"""The program that prints what looking at pools costs: it runs, and its figures fit together."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.benchmarks.status", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120.0)


def test_it_measures_with_and_without_and_prints_json():
    done = run("--json", "--calls", "6", "--rounds", "2", "--seconds", "0.5")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    first, second, third = found["without"]
    one, other = found["with"]
    assert min(one, other) > 0
    assert 0 < found["calls"] <= 6
    ratios = 2 * one / (first + second), 2 * other / (second + third)
    assert found["ratio"] == pytest.approx(sum(ratios) / 2)
    assert found["noise"] == pytest.approx((abs(second / first - 1) + abs(third / second - 1)) / 2)
    assert found["cpu_ms_of_call"] >= 0


def test_its_help_says_how_to_read_the_figures():
    text = run("--help").stdout
    for word in ("ratio", "noise", "CPU of a call", "--calls"):
        assert word in text

"""The program that compares ways to route: it runs, and nobody reads before its own write."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.benchmarks.routing_visitors import WAYS

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.benchmarks.routing_share", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120.0)


def test_a_position_leaves_more_to_the_replica_than_a_pin_and_neither_lies():
    done = run(
        "--json", "--seconds", "2", "--warm-up", "1", "--think", "0.1", "--visitors", "8",
        "--lags", "0,100",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {(row["lag"], row["way"]): row for row in json.loads(done.stdout)}
    assert {(lag, way) for lag in (0, 100) for way in ("position", "time")} <= set(rows)
    for row in rows.values():
        assert row["pages"] > 0
        assert row["stale"] == 0
        assert 0 <= row["share"] <= 1
        assert 0 < row["p50"] <= row["p99"]
    for lag in (0, 100):
        # With a visit each tenth of a second hardly a pin of five seconds ever ends.
        assert rows[lag, "time"]["share"] < rows[lag, "position"]["share"]
    assert rows[100, "position"]["share"] < rows[0, "position"]["share"]


def test_what_makes_no_sense_is_refused():
    assert run("--think", "0").returncode == 2
    assert "whole milliseconds" in run("--lags", "x").stderr
    text = run("--help").stdout
    for way in WAYS:
        assert f"  {way}" in text

"""The program that prints what sharing a client session saves: it runs, and counts sockets."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.benchmarks.http import BARE, EACH, EACH_SYNC, SHARED, SYNC

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.benchmarks.http", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120.0)


def test_it_measures_each_contestant_and_counts_its_sockets() -> None:
    done = run("--json", "--rounds", "2", "--requests", "20", "--at-once", "4")
    assert (done.returncode, done.stderr) == (0, "")
    rows = {(row["upstream"], row["contestant"]): row for row in json.loads(done.stdout)}
    names = (SHARED, EACH, BARE, SYNC, EACH_SYNC)
    assert set(rows) == {(kind, name) for kind in ("tcp", "tls") for name in names}
    for (_, name), row in rows.items():
        assert row["requests"] == 60
        assert 0 < row["p50"] <= row["p95"]
        # Of a shared one the connections of its limit at most; of the others one each.
        assert row["sockets"] == 60 if name in (EACH, EACH_SYNC) else row["sockets"] <= 12
    assert rows["tcp", SHARED]["sockets"] <= 4


def test_its_help_says_how_to_read_the_table() -> None:
    text = run("--help").stdout
    for word in (SHARED, EACH, BARE, SYNC, EACH_SYNC, "sockets", "x shared", "--rounds"):
        assert word in text

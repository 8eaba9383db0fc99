"""The program that sets ours beside the other pools: it runs, and says what it left out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from django_poolkit.testing import Node
from tests.benchmarks import peers

ROOT = Path(__file__).parents[2]
FETCHED = {"django-db-connection-pool", "django-pg-real-pool"}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.benchmarks.peers", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=150.0)


def test_it_measures_each_contestant_and_prints_json(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # So that it does not depend on what earlier runs have fetched.
    monkeypatch.setattr(peers, "ENVIRONMENTS", tmp_path)
    peers.main(["--quick", "--no-fetch", "--json"])
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    for name in FETCHED:
        assert f"without {name}: it is not installed" in printed.err
    there = [each for each in peers.contestants(1.0) if each.name not in FETCHED]
    wanted = {("after a kill", each.name) for each in there} | {
        (title, each.name)
        for title, order in peers.measures(1.0)
        for each in there
        if peers.order_for(each, order) is not None
    }
    assert {(row["measure"], row["contestant"]) for row in found} == wanted
    for row in found:
        if row["measure"] != "after a kill":
            assert "failed" not in row
            assert 0 < row["cpu_low"] <= row["cpu"] <= row["cpu_high"]
        assert 0 < row["wall_low"] <= row["wall"] <= row["wall_high"]
        if row["measure"] == "after a kill" and row["contestant"].startswith("ours"):
            assert row["failures"] == 0


def test_many_threads_are_asked_only_of_who_can_serve_them() -> None:
    orders = {
        (title, each.name): order["threads"]
        for title, given in peers.measures(1.0)
        if given["do"] == "statements"
        for each in peers.contestants(1.0)
        if (order := peers.order_for(each, given)) is not None
    }
    titles = {title for title, _ in orders}
    assert len(titles) == 3
    for title in titles:
        many = "thr." in title
        assert orders[title, "ours, transaction"] == peers.MANY
        assert orders[title, peers.HELD] == (peers.MANY if many else peers.SIZE)
        assert ((title, peers.OURS) in orders) is not many


def test_its_help_says_how_to_read_the_table() -> None:
    text = run("--help").stdout
    for word in ("ours, session", peers.HELD, *FETCHED, "median", "--rounds", "--quick", "to held"):
        assert word in text


def test_options_that_make_no_sense_are_refused() -> None:
    with pytest.raises(SystemExit):
        peers.parsed(["--scale", "0"])


def test_a_contestant_that_cannot_start_is_named_with_the_reason(primary: Node) -> None:
    broken = peers.Contestant("broken", settings={"CONN_MAX_AGE": None}, options={"pool": True})
    worker = peers.Worker(broken, sys.executable, primary)
    try:
        with pytest.raises(peers.Unavailable, match=r"doesn.t support persistent"):
            worker.ask(do="first")
    finally:
        worker.close()


def test_an_environment_that_cannot_be_made_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", "one\nERROR: no such package\n")

    monkeypatch.setattr(peers, "ENVIRONMENTS", tmp_path)
    monkeypatch.setattr(subprocess, "run", refuse)
    [one] = [c for c in peers.contestants(1.0) if c.package == "django-pg-real-pool"]
    with pytest.raises(peers.Unavailable, match="ERROR: no such package"):
        peers.interpreter_of(one, fetch=True)

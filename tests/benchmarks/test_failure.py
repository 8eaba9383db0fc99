"""The program that has faults met by all contestants: it runs, and ours come out of them."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest

from django_poolkit.testing import Node
from django_poolkit.testing.pgbouncer import find_pgbouncer
from tests.benchmarks import failure, peers
from tests.benchmarks.failure_worker import Crowd, Visit
from tests.benchmarks.faults import FAULTS, moved
from tests.benchmarks.hole import Hole

ROOT = Path(__file__).parents[2]
FETCHED = {"django-db-connection-pool", "django-pg-real-pool"}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.benchmarks.failure", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=170.0)


def test_all_contestants_meet_a_fault(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # So that it does not depend on what earlier runs have fetched.
    monkeypatch.setattr(peers, "ENVIRONMENTS", tmp_path)
    arguments = ["--faults", "kill", "--rounds", "1", "--threads", "2", "--no-fetch", "--json"]
    assert failure.main(arguments) == 0
    printed = capsys.readouterr()
    rows = {row["contestant"]: row for row in json.loads(printed.out)}
    names = {each.name for each in failure.contestants(1.0)} - FETCHED
    assert set(rows) == names - (set() if find_pgbouncer() else {failure.BOUNCER})
    for name in FETCHED:
        assert f"without {name}: it is not installed" in printed.err
    for row in rows.values():
        assert (row["measure"], row["rounds"]) == (FAULTS["kill"].name, 1)
        assert 0 < row["first"] <= row["all"]
        assert row["requests"] >= 2
        assert row["longest"] > 0
    # Each thread had a connection of its own, which was gone.
    assert rows[peers.HELD]["failed"] == 2
    assert rows[peers.HELD]["errors"] == ["OperationalError"]
    for name, row in rows.items():
        if name.startswith("ours"):
            assert (row["failed"], row["errors"]) == (0, [])


def test_ours_come_out_of_a_failover_and_of_what_a_network_forgets() -> None:
    done = run(
        "--faults", "forgotten", "failover", "--rounds", "1", "--threads", "2", "--no-fetch",
        "--only", "ours, transaction", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = {row["measure"]: row for row in json.loads(done.stdout)}
    assert set(rows) == {FAULTS["forgotten"].name, FAULTS["failover"].name}
    assert all(row["all"] > 0 for row in rows.values())
    assert rows[FAULTS["forgotten"].name]["failed"] == 0


def crowd(visits: list[Visit], under_way: list[float | None]) -> Crowd:
    found = Crowd(lambda: None, 0, 0.0)
    found._visits, found._under_way = visits, under_way
    return found


def test_what_a_fault_has_cost_is_counted_from_its_beginning() -> None:
    visits = [
        Visit(0, 1.0, 2.0, "before"),  # not of this fault
        Visit(0, 9.0, 11.0, "OperationalError"),
        Visit(0, 11.0, 12.5, None),  # while it lasts
        Visit(1, 9.0, 20.5, None),
        Visit(0, 21.0, 22.0, None),
        Visit(0, 22.0, 23.0, None),
    ]
    cost = crowd(visits, [None, None]).answer(begun=10.0, ended=20.0)
    assert (cost["first"], cost["all"], cost["longest"]) == (0.5, 2.0, 11.5)
    assert (cost["failed"], cost["errors"], cost["requests"]) == (1, ["OperationalError"], 5)
    # The second thread has been waiting ever since.
    cost = crowd(visits[:3], [None, 9.0]).answer(begun=10.0, ended=20.0)
    assert (cost["first"], cost["all"]) == (None, None)
    assert cost["longest"] > 11.5


def test_a_round_that_gave_up_is_worse_than_any_number() -> None:
    answers: list[dict[str, Any]] = [
        {"first": first, "all": None, "failed": 1, "longest": 1.0, "errors": [], "requests": 1}
        for first in (0.5, None, 0.1)
    ]
    row = failure._row("kill", "somebody", answers)
    assert (row["first"], row["first_low"], row["first_high"]) == (0.5, 0.1, None)
    assert row["all"] is None
    assert "none" in failure.show(row)
    options = failure.parsed(["--faults", "kill", "--only", "ours, transaction"])
    kill = {"measure": FAULTS["kill"].name, "contestant": "ours, transaction"}
    assert failure.served_again(options, [{**kill, "all": 0.5}])
    assert not failure.served_again(options, [{**kill, "all": None}])
    assert not failure.served_again(options, [])


def test_what_a_hole_has_forgotten_is_silent_and_what_is_new_passes(primary: Node) -> None:
    with Hole(primary.host, primary.port) as hole:
        there = moved(primary, hole.host, hole.port)
        old = there.connect()
        try:
            old.execute("SELECT 1")
            assert hole.forget() == 1
            with there.connect() as new:
                assert new.execute("SELECT 1").fetchone() == (1,)
            old.pgconn.send_query(b"SELECT 1")
            with socket.socket(fileno=socket.dup(old.fileno())) as wire:
                wire.settimeout(0.2)
                with pytest.raises(TimeoutError):
                    wire.recv(1)
        finally:
            old.close()
    assert there.port != primary.port
    with pytest.raises(psycopg.OperationalError):
        there.connect()


def test_its_help_says_how_to_read_the_table() -> None:
    text = run("--help").stdout
    for word in (failure.NO_POOL, failure.BOUNCER, *FAULTS, "first", "longest", "exit code"):
        assert word in text


def test_options_that_make_no_sense_are_refused() -> None:
    with pytest.raises(SystemExit):
        failure.parsed(["--bound", "0"])


def test_what_takes_long_is_met_by_few() -> None:
    short, long = failure.parsed([]), failure.parsed(["--long"])
    assert short.faults == long.faults == [*FAULTS]
    few = {each.name for each in failure.taking_part(short, "restart-20")}
    assert few == set(failure.FEW["restart-20"])
    everybody = {each.name for each in failure.taking_part(long, "restart-20")}
    assert everybody == {each.name for each in failure.taking_part(short, "restart-5")}
    assert few < everybody

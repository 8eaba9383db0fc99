"""The program that soaks the pools: it runs, and what it looks for would be found."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from django_poolkit.pools.postgres import ConnectionPool
from tests.benchmarks import soak
from tests.benchmarks.soak_users import Bled, Gate, _unmarked
from tests.benchmarks.soak_watch import Moment, growth, miscounted

ROOT = Path(__file__).parents[2]


def test_a_minute_of_faults_finds_nothing() -> None:
    command = [sys.executable, "-m", "tests.benchmarks.soak", "--minutes", "1", "--every", "10"]
    command += ["--users", "6", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=170.0)
    assert done.stdout, done.stderr
    found = json.loads(done.stdout)
    assert (done.returncode, found["findings"]) == (0, [])
    assert {row["when"] for row in found["counts"]} == {"early", "late", "allowed"}
    assert {row["measure"] for row in found["counts"]} == {
        "threads", "open files", "objects", "MiB",
    }  # fmt: skip
    assert all(row["value"] > 0 for row in found["counts"])
    # Each sample that is no sum of its parts would be among the findings.
    assert found["samples"] > 100
    assert sum(found["faults"].values()) >= 5
    assert found["served"] > 100
    assert "all of it held" in soak.show(found)


def test_figures_that_do_not_add_up_are_found(make_pool: Callable[..., ConnectionPool]) -> None:
    pool = make_pool(max_size=2)
    pool.acquire().release()
    stats = pool.stats()
    assert miscounted(stats) is None
    assert "size 2 of 2, idle 1" in str(miscounted(replace(stats, size=2)))
    assert miscounted(replace(stats, idle=-1, size=-1)) is not None
    assert miscounted(replace(stats, idle=3, size=3)) is not None


def test_a_slot_that_is_lost_is_found(
    make_pool: Callable[..., ConnectionPool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(soak, "SIZE", 2)
    monkeypatch.setattr(soak, "PATIENCE", 0.1)
    pool = make_pool(max_size=2)
    assert soak.last_connection(pool) is None
    with pool.lease():
        assert not soak.at_rest(pool.stats())
        assert "only 1 of 2 connections can be had" in str(soak.last_connection(pool))
    assert soak.at_rest(pool.stats())


def test_what_has_grown_is_named() -> None:
    early = Moment(threads=10, files=10, objects=50_000, mib=60.0)
    assert growth([early, replace(early, threads=30), early.allowed()])[1] == []
    for name, title in (("threads", "threads"), ("files", "open files"), ("objects", "objects")):
        late = replace(early, **{name: getattr(early.allowed(), name) + 1})
        [said] = growth([early, late])[1]
        assert said.startswith(f"{title}: from ")
    assert growth([])[1] == ["there was no quiet moment"]


def test_what_begins_after_the_first_moment_is_no_growth_but_what_goes_on_is() -> None:
    first = Moment(threads=9, files=10, objects=50_000, mib=60.0)
    begun = replace(first, threads=22)
    assert growth([first, begun, begun, begun])[1] == []
    growing = [replace(first, threads=9 + 5 * n) for n in range(6)]
    assert growth(growing)[1] == ["threads: from 19.0 to 34.0"]


def test_what_one_has_left_for_another_is_found() -> None:
    for clean in (None, (None,), ("",)):
        _unmarked(clean)
    with pytest.raises(Bled):
        _unmarked(("somebody",))


def test_a_gate_waits_for_who_is_inside() -> None:
    gate = Gate()
    assert gate.enter()
    assert not gate.shut(0.01)
    gate.leave()
    assert gate.shut(10.0)
    gate.end()
    assert not gate.enter()


def test_its_help_says_how_to_read_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        soak.parsed(["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    for word in ("idle + used + connecting", "early", "late", "allowed", "exit code", "--minutes"):
        assert word in text
    with pytest.raises(SystemExit):
        soak.parsed(["--minutes", "0"])

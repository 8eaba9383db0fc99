"""The program of connections that are held too long: it runs, with all contestants."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from django_poolkit.testing import Node
from tests.benchmarks import async_http, held
from tests.benchmarks.web_servers import NATIVE


def test_it_measures_contestants_beside_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--json", "--clients", "40", "--seconds", "0.3", "--only", held.POOL]
    arguments += ["--no-fetch"]
    assert held.main(arguments) == 0
    rows = {row["contestant"]: row for row in json.loads(capsys.readouterr().out)}
    assert set(rows) == {held.POOL, held.CHECKED}
    for row in rows.values():
        assert (row["view"], row["clients"]) == (held.AROUND, 40)
        assert row["throughput"] > 0
        assert row["p99"] > 0.1
        assert row["cpu"] > 0
        assert 0 < row["connections"] <= 20
    shown = held.show(list(rows.values()))
    assert "1.00" in shown
    assert len(shown.splitlines()) == 2


def test_each_contestant_has_settings_of_its_own(primary: Node) -> None:
    entries = {
        each.name: json.loads(each.variables(primary, "http://supplier/")["CONTEST_DATABASE"])
        for each in held.contestants()
    }
    assert set(entries) == {
        held.NO_POOL, held.POOL, held.CHECKED, async_http.THREADS, async_http.LOOP,
    }  # fmt: skip
    assert entries.pop(held.NO_POOL)["OPTIONS"] == {}
    assert {entry["OPTIONS"]["pool"]["max_size"] for entry in entries.values()} == {20}
    assert entries[held.CHECKED]["CONN_HEALTH_CHECKS"] is True
    assert "CONN_HEALTH_CHECKS" not in entries[held.POOL]


def test_django_async_backend_takes_part_where_it_can_be_had(primary: Node, tmp_path: Path) -> None:
    [native] = [each for each in held.contestants(tmp_path) if each.name == NATIVE.name]
    told = native.variables(primary, "http://supplier/")
    assert (told["CONTEST_APP"], told["PYTHONPATH"]) == ("django_async_backend", str(tmp_path))
    assert not native.threads  # it takes part however many there are


def test_who_takes_threads_sits_out_where_there_are_too_many() -> None:
    options = held.parsed(["--long"])
    assert (options.clients, options.rounds) == ([200, 1_000, 5_000, 10_000], 3)
    taking_part = async_http.takers(5_000, options, held.contestants())
    assert [each.name for each in taking_part] == [async_http.LOOP]


def test_ours_have_to_take_part_and_to_be_answered() -> None:
    options = held.parsed(["--clients", "10"])
    row = {"clients": 10, "contestant": async_http.LOOP, "failed": 0}
    both = [row, {**row, "contestant": async_http.THREADS}]
    assert held.answered(options, held.contestants(), both)
    assert not held.answered(options, held.contestants(), [row])
    assert not held.answered(options, held.contestants(), [{**each, "failed": 1} for each in both])


def test_who_is_interrupted_says_what_there_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {
        "clients": 10, "contestant": held.POOL, "failed": 0, "throughput": 1.0, "p99": 1.0,
        "cpu": 0.1, "threads": 1, "memory": 1, "connections": 1,
    }  # fmt: skip

    def contest(*arguments: Any) -> Iterator[list[dict[str, Any]]]:
        yield [row]
        raise KeyboardInterrupt

    monkeypatch.setattr(async_http, "contest", contest)
    assert held.main(["--json", "--no-fetch", "--clients", "10"]) == 1
    assert json.loads(capsys.readouterr().out) == [row]


def test_its_help_says_how_to_read_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        held.parsed(["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    for word in (held.NO_POOL, held.POOL, "to pool", "p99", "exit code", "--long"):
        assert word in text
    with pytest.raises(SystemExit):
        held.parsed(["--clients", "0"])

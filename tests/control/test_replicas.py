"""What `poolstatus` shows of the servers of clusters, and what it finds wrong with them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest
from django.test import override_settings

from django_poolkit.control import answers, replicas, servers
from django_poolkit.control.collect import DEGRADED, FINE, collect
from django_poolkit.control.render import line
from django_poolkit.routing.seen import Seen
from tests.control.statuses import pool, status
from tests.control.test_render import report, rows, shown


def member(name: str = "replica/1", **values: Any) -> dict[str, Any]:
    """Return one server of an answer, through the class that makes it."""
    facts: dict[str, Any] = {"cluster": "default", "role": "replica", "state": "admitted"}
    facts |= {"alias": name.partition("/")[0], "age": 3.0, "lag": 0.0, "lag_bytes": 0}
    found: dict[str, Any] = json.loads(
        json.dumps(asdict(Seen(**{**facts, "name": name, **values})))
    )
    return found


PRIMARY = member("default", role="primary", state="found", age=None, lag=None, lag_bytes=None)
LOST = {**PRIMARY, "state": "lost", "reason": "refuses"}
LATE = member("replica/2", state="evicted", reason="lag", share=0.0, lag=12.0, lag_bytes=4096)
DEAD = member("replica/3", state="evicted", reason="refuses", share=0.0, lag=None, lag_bytes=None)
TRIAL = member("replica/4", state="trial", reason="cut", share=0.325)


def test_each_server_that_a_process_has_looked_at_has_a_row() -> None:
    found = report(
        status(101, pool(), members=[PRIMARY, member(), LATE]),
        status(102, pool(), members=[LOST, DEAD, TRIAL]),
        status(103, pool()),
    )
    [table] = replicas.table(found.processes)
    first, well, late, lost, dead, trial = rows(table)
    assert well == {
        "PID": "101", "CLUSTER": "default", "SERVER": "replica/1", "ROLE": "replica",
        "STATE": "admitted", "REASON": "-", "FOR": "3.0 s", "SHARE": "100%", "LAG": "0 ms",
        "BYTES": "0",
    }  # fmt: skip
    columns = ("STATE", "REASON", "SHARE", "LAG", "BYTES")
    assert [first[name] for name in columns] == ["found", "-", "-", "-", "-"]
    assert [late[name] for name in columns] == ["evicted", "lag", "0%", "12.0 s", "4096"]
    assert [lost[name] for name in columns] == ["lost", "refuses", "-", "-", "-"]
    assert [dead[name] for name in columns] == ["evicted", "refuses", "0%", "-", "-"]
    assert [trial[name] for name in columns] == ["trial", "cut", "32%", "0 ms", "0"]
    assert {row["PID"] for row in (lost, dead, trial)} == {"102"}
    tones = [{cell.tone for cell in row} - {""} for row in table.rows]
    assert tones == [set(), set(), {"bad"}, {"bad"}, {"bad"}, {"warn"}]
    assert any("replica/2" in text for text in shown(found))


def test_without_clusters_there_is_nothing_of_them() -> None:
    found = report(status(101, pool()))
    assert list(replicas.table(found.processes)) == []
    assert "replicas=" not in line(found)


def test_a_line_counts_servers_once_however_many_look_at_them() -> None:
    found = report(
        status(101, pool(), members=[PRIMARY, member(), LATE, TRIAL]),
        status(102, pool(), members=[LOST, member(), LATE, TRIAL]),
    )
    assert line(found).endswith(" replicas=3 evicted=1 primaries_lost=1")


def test_a_name_cannot_steer_a_terminal() -> None:
    [table] = replicas.table([{"pid": 1, "members": [member("replica\x1b[2J")]}])
    assert rows(table)[0]["SERVER"] == "replica?[2J"


@pytest.mark.parametrize(
    ("found", "code", "text"),
    [
        (LATE, DEGRADED, "replica/2: is not read: lag (12.0 s, 4096 bytes behind)"),
        ({**LATE, "lag": None}, DEGRADED, "replica/2: is not read: lag (4096 bytes behind)"),
        (DEAD, DEGRADED, "replica/3: is not read: refuses"),
        (TRIAL, FINE, "replica/4: is read by 32% again, after it was not: cut"),
        (LOST, DEGRADED, "default: is not taken for the primary of cluster 'default': refuses"),
    ],
)
def test_who_is_not_read_is_a_problem(
    place: Any, serve: Callable[..., Any], monkeypatch: Any, found: Any, code: int, text: str
) -> None:
    monkeypatch.setattr(servers, "check", lambda aliases, processes: [])
    serve(
        {"status": lambda asked: status(101, pool(), members=[PRIMARY, member(), found])}, pid=101
    )
    with override_settings(POOLKIT={"CONTROL": {"DIRECTORY": str(place)}}):
        seen = collect()
        some = collect(["default"])
    assert seen.exit_code == code
    assert [line for problem in seen.problems for line in problem.lines()] == [f"pid 101, {text}"]
    # Of some aliases only these are shown.
    names = [each["name"] for each in some.processes[0]["members"]]
    assert names == [each["name"] for each in (PRIMARY, found) if each["alias"] == "default"]


def test_a_process_says_only_what_it_is_asked_for(monkeypatch) -> None:
    class Known:
        def seen(self) -> list[Seen]:
            keys = ("cluster", "alias", "name", "role", "state")
            return [Seen(**{key: each[key] for key in keys}) for each in (PRIMARY, member(), LATE)]

    monkeypatch.setattr(answers, "monitor", Known())

    def names(**arguments: Any) -> list[str]:
        return [each["name"] for each in answers.status(arguments)["members"]]

    assert names() == ["default", "replica/1", "replica/2"]
    assert names(databases=["replica"]) == ["replica/1", "replica/2"]
    assert names(databases=["replica/2", "other"]) == ["replica/2"]

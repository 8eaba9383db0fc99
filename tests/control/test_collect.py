"""What is gathered from processes and servers, what it adds up to, and what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import connection, connections
from django.test import override_settings

from django_poolkit import registry
from django_poolkit.control import collect as module
from django_poolkit.control import servers
from django_poolkit.control.collect import DEGRADED, FINE, NO_PROCESS, UNREACHABLE, Report, collect
from django_poolkit.control.servers import Server, Share
from django_poolkit.testing import Node
from tests.control.statuses import histogram, lease, observed, pool, status


def server(*shares: Share, **values: Any) -> Server:
    """Return a server that was reached, and has plenty."""
    facts = {"aliases": ("default",), "max_connections": 100, "reserved": 3, "connections": 5}
    return Server(**{**facts, "may_open": 8, "shares": shares, **values})


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[Server]:
    """What the servers say; the check of them is what is tested elsewhere."""
    found = [server()]
    monkeypatch.setattr(servers, "check", lambda aliases, processes: found)
    return found


@pytest.fixture
def processes(
    found: list[Server], place: Path, serve: Callable[..., Any]
) -> Iterator[Callable[..., None]]:
    """Return a function by which sockets answer `status` like these processes."""

    def processes(*answers: dict[str, Any]) -> None:
        for answer in answers:
            serve({"status": lambda arguments, answer=answer: answer}, pid=answer["pid"])

    with override_settings(POOLKIT={"CONTROL": {"DIRECTORY": str(place)}}):
        yield processes


def texts(report: Report) -> list[str]:
    return [line for problem in report.problems for line in problem.lines()]


# -- who is asked


def test_every_process_is_asked_for_what_is_wanted(
    found: list[Server], place: Path, serve: Callable[..., Any]
) -> None:
    asked: list[Any] = []

    def answer(arguments: Any) -> Any:
        asked.append(dict(arguments))
        return status(101, pool(), leases=[lease()], observations={})

    serve({"status": answer}, pid=101)
    with override_settings(POOLKIT={"CONTROL": {"DIRECTORY": str(place)}}):
        report = collect(leases=True, pins=True)
        collect()
    assert asked == [{"leases": True, "pins": True}, {"leases": False, "pins": False}]
    assert [process["leases"] for process in report.processes] == [[lease()]]
    assert [verdict.pool for verdict in report.verdicts] == ["default"]


def test_without_pins_nothing_is_judged(processes: Callable[..., None]) -> None:
    processes(status(101, pool()))
    assert collect().verdicts == ()


def test_a_look_asks_for_history_and_no_server(
    serve: Callable[..., Any], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def answer(arguments: Any) -> Any:
        asked.append(dict(arguments))
        return status(101, pool(waiters=1, oldest_waiter=0.2), leases=[lease()], events=[])

    serve({"status": answer}, pid=101)
    monkeypatch.delattr(module, "servers")
    with override_settings(POOLKIT={"CONTROL": {"DIRECTORY": str(place)}}):
        report = module.look()
    assert asked == [{"leases": True, "history": True}]
    assert (report.exit_code, report.servers) == (DEGRADED, ())


def test_nobody_there_is_explained(processes: Callable[..., None], place: Path) -> None:
    report = collect()
    assert report.exit_code == NO_PROCESS
    assert texts(report)[0].startswith("No live process was found. Looked in")
    assert str(place) in texts(report)[0]


def test_one_of_another_version_is_a_problem_and_no_process(
    processes: Callable[..., None],
) -> None:
    other = status(102, version="0.0.1")
    other["pools"] = [{"name": "default"}]  # which has other figures
    processes(status(101, pool()), other)
    report = collect()
    assert [process["pid"] for process in report.processes] == [101]
    assert report.exit_code == DEGRADED
    assert any("pid 102: runs django_poolkit 0.0.1" in text for text in texts(report))


def test_one_that_cannot_answer_is_a_problem_and_no_process(
    processes: Callable[..., None], serve: Callable[..., Any]
) -> None:
    def broken(arguments: Any) -> Any:
        raise LookupError("secret")

    processes(status(101, pool()))
    serve({"status": broken}, pid=102)
    report = collect()
    assert [process["pid"] for process in report.processes] == [101]
    assert report.exit_code == DEGRADED
    [text] = texts(report)
    assert text.startswith("pid 102: does not answer: ")
    assert "secret" not in text


def test_one_that_is_there_and_never_answers_is_not_nobody(
    processes: Callable[..., None], serve: Callable[..., Any]
) -> None:
    serve({}, pid=102)  # of an older version, say: it does not know the command
    report = collect()
    assert report.exit_code == DEGRADED
    assert report.processes == ()


@pytest.mark.django_db(transaction=True)
def test_locally_no_socket_is_asked(
    found: list[Server], processes: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    connections.close_all()
    registry.pools.close_all()
    processes(status(101, pool("other")))
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    monkeypatch.delattr(module, "client")
    report = collect(local=True, leases=True)
    [process] = report.processes
    [described] = process["pools"]
    assert (described["name"], described["used"], len(process["leases"])) == ("default", 1, 1)
    assert report.exit_code == FINE


# -- one alias


def test_with_an_alias_only_what_serves_it_is_shown(processes: Callable[..., None]) -> None:
    shared = pool("shared", aliases=("report", "default"))
    processes(
        status(
            101,
            pool("other", waiters=3, acquired=7),
            shared,
            leases=[lease(1), lease(2) | {"pool": "shared"}, lease(3) | {"pool": "other"}],
            observations={
                "other": observed(held=1.0, idle=1.0),
                "shared": observed(held=0.0, idle=0.0),
            },
        )
    )
    report = collect(["default"], leases=True, pins=True)
    [process] = report.processes
    assert [shown["name"] for shown in process["pools"]] == ["shared"]
    assert [shown["pool"] for shown in process["leases"]] == ["shared"]
    assert [total["name"] for total in report.totals] == ["shared"]
    assert [verdict.pool for verdict in report.verdicts] == ["shared"]
    assert report.problems == ()


def test_the_servers_hear_of_all_pools_even_so(
    processes: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[Any] = []

    def check(*arguments: Any) -> list[Server]:
        heard.append(arguments)
        return []

    monkeypatch.setattr(servers, "check", check)
    processes(status(101, pool("default"), pool("other")))
    collect(["default"])
    [(aliases, results)] = heard
    assert aliases == {"default"}
    assert [shown["name"] for shown in results[0]["pools"]] == ["default", "other"]


# -- sums


def test_a_total_adds_up_what_adds_up(processes: Callable[..., None]) -> None:
    one: dict[str, Any] = {
        "used": 8,
        "size": 8,
        "waiters": 2,
        "oldest_waiter": 0.5,
        "pins": {"set": 1},
    }
    two: dict[str, Any] = {
        "used": 2,
        "size": 5,
        "idle": 3,
        "oldest_waiter": 0.0,
        "pins": {"set": 2, "raw": 1},
    }
    processes(
        status(101, pool(**one, acquired=10, timeouts=3, oldest_lease=9.0, per_second=1.5)),
        status(102, pool(**two, acquired=5, leaks=1, oldest_lease=4.0, per_second=2.0)),
        status(103, pool("report", mode="transaction", max_size=1)),
    )
    total, report = collect().totals
    wanted = {
        "name": "default", "processes": 2, "size": 13, "max_size": 16, "used": 10, "idle": 3,
        "waiters": 2, "oldest_waiter": 0.5, "oldest_lease": 9.0, "acquired": 15, "timeouts": 3,
        "leaks": 1, "pins": {"set": 3, "raw": 1}, "utilization": 10 / 16, "state": "open",
        "mode": "session",
    }  # fmt: skip
    assert {key: total[key] for key in wanted} == wanted
    assert total["recent"]["acquires_per_second"] == 3.5
    assert (report["name"], report["processes"], report["mode"]) == ("report", 1, "transaction")


def test_states_and_modes_that_differ_are_both_said(processes: Callable[..., None]) -> None:
    processes(
        status(101, pool(state="paused", mode="transaction")),
        status(102, pool()),
    )
    [total] = collect().totals
    assert (total["state"], total["mode"]) == ("open and paused", "session and transaction")


def test_quantiles_of_a_total_are_those_of_all_leases_together(
    processes: Callable[..., None],
) -> None:
    processes(
        status(101, pool(use=histogram(ms250=100), wait=histogram(ms1=90), acquired=90, waited=90)),
        status(102, pool(use=histogram(ms2500=10), wait=histogram(beyond=1), acquired=9, waited=1)),
    )
    [total] = collect().totals
    use, wait = total["recent"]["use"], total["recent"]["wait"]
    assert (use["count"], use["p50"], use["p95"], use["p99"]) == (110, 0.25, 2.5, 2.5)
    # 8 did not wait at all, which counts as well; and one longer than can be told.
    assert (wait["count"], wait["p50"], wait["p95"], wait["p99"]) == (99, 0.001, 0.001, None)


def test_a_quantile_that_is_not_known_is_none(processes: Callable[..., None]) -> None:
    processes(status(101, pool(use=histogram(beyond=3))), status(102, pool()))
    [total] = collect().totals
    assert (total["recent"]["use"]["count"], total["recent"]["use"]["p50"]) == (3, None)
    assert (total["recent"]["wait"]["count"], total["recent"]["wait"]["p50"]) == (0, None)


# -- what is wrong


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        ({"waiters": 3, "oldest_waiter": 1.2}, "3 wait, the first for 1.20 s"),
        ({"state": "paused", "pause_left": 11.7}, "is paused, for 12 s more"),
        ({"last_connect_error": "E [1]: no"}, "fails to connect: E [1]: no"),
    ],
)
def test_what_degrades_a_pool(
    processes: Callable[..., None], facts: dict[str, Any], text: str
) -> None:
    processes(status(101, pool(**facts)), status(102, pool()))
    report = collect()
    assert report.exit_code == DEGRADED
    assert texts(report) == [f"pid 101, default: {text}"]


def test_one_that_drains_is_no_help_to_the_others(processes: Callable[..., None]) -> None:
    processes(status(101, pool(), draining=True), status(102, pool()))
    report = collect()
    assert report.exit_code == DEGRADED
    assert texts(report) == ["pid 101: is draining"]


def test_busy_is_fine(processes: Callable[..., None]) -> None:
    processes(
        status(101, pool(used=8, size=8, timeouts=7, leaks=1, pins={"set": 3}, connect_errors=9)),
        status(102),
    )
    assert (collect().exit_code, collect().problems) == (FINE, ())


def test_a_database_that_cannot_be_reached(
    processes: Callable[..., None], found: list[Server]
) -> None:
    found[:] = [server(aliases=("a", "b"), errors={"b": "E [2]: no"}), server(aliases=("c",))]
    processes(status(101, pool(waiters=1)))
    report = collect()
    assert report.exit_code == UNREACHABLE
    assert texts(report)[0] == "b: the database cannot be reached: E [2]: no"


def test_no_process_is_worse_than_no_database(
    processes: Callable[..., None], found: list[Server]
) -> None:
    found[:] = [server(errors={"default": "E"})]
    report = collect()
    assert report.exit_code == NO_PROCESS
    assert [problem.code for problem in report.problems] == [NO_PROCESS, UNREACHABLE]


def test_a_budget_that_does_not_fit_is_only_worth_to_be_known(
    processes: Callable[..., None], found: list[Server]
) -> None:
    others = Share(whose="others", connections=10)
    processes(status(101, pool()))
    found[:] = [server(others, may_open=87)]
    assert collect().problems == ()
    found[:] = [server(others, may_open=90)]
    report = collect()
    assert report.exit_code == FINE
    assert texts(report) == ["default: the server is 3 connections short, should all pools fill up"]


def test_connections_that_bear_another_name_are_pointed_out(
    processes: Callable[..., None], found: list[Server]
) -> None:
    processes(status(101, pool()))
    for share, told in (
        (Share(whose="process", pids=(101,), open=2, connections=0), True),
        (Share(whose="process", pids=(101,), open=2, connections=1), False),
        (Share(whose="process", pids=(101,), open=0, connections=0), False),
        (Share(whose="process", pids=(101,), open=2), False),
    ):
        found[:] = [server(share)]
        report = collect()
        assert report.exit_code == FINE
        assert bool(texts(report)) is told
    found[:] = [server(Share(whose="process", pids=(101,), open=2, connections=0))]
    assert (
        "pid 101, default: has 2 connections, none of which the server knows" in texts(collect())[0]
    )


# -- as JSON


@pytest.mark.django_db(transaction=True)
def test_a_report_is_ready_for_json(place: Path, primary: Node) -> None:
    connections.close_all()
    registry.pools.close_all()
    with override_settings(POOLKIT={"CONTROL": {"DIRECTORY": str(place)}}):
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        report = collect(local=True, leases=True, pins=True)
    plain = json.loads(json.dumps(report.as_dict()))
    assert set(plain) == {
        "version", "status", "exit_code", "time", "processes", "totals", "servers", "verdicts",
        "problems",
    }  # fmt: skip
    assert (plain["status"], plain["exit_code"]) == ("fine", 0)
    [found] = plain["servers"]
    assert (found["usable"], found["short"]) == (found["max_connections"] - found["reserved"], 0)
    assert plain["verdicts"][0]["share"] == 0.0


@pytest.mark.django_db(transaction=True)
def test_the_answers_of_these_tests_are_like_real_ones() -> None:
    connections.close_all()
    registry.pools.close_all()
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        [process] = collect(local=True, leases=True).processes
    made = status(1, pool(), leases=[lease()])
    assert set(made) == set(process)
    [real] = process["pools"]
    assert set(made["pools"][0]) == set(real)
    assert set(made["pools"][0]["recent"]) == set(real["recent"])
    assert set(made["leases"][0]) == set(process["leases"][0])

"""What is shown of a report."""

from __future__ import annotations

from typing import Any

import pytest

from django_poolkit.control import collect
from django_poolkit.control.collect import Problem, Report
from django_poolkit.control.render import line, tables
from django_poolkit.control.servers import Server, Share
from django_poolkit.control.tables import Table, draw, duration
from django_poolkit.control.verdicts import judge
from tests.control.statuses import histogram, lease, observed, pool, status


def report(*processes: dict[str, Any], **values: Any) -> Report:
    facts: dict[str, Any] = {"time": 0.0, "servers": (), "verdicts": (), "problems": ()}
    totals = tuple(collect._totals(processes))
    return Report(**{**facts, "processes": processes, "totals": totals, **values})


def shown(found: Report) -> list[str]:
    return draw(tables(found), color=False).splitlines()


def rows(table: Table) -> list[dict[str, str]]:
    """Return the rows of a table, by the names of its columns; the second P95 is `P95 2`."""
    names: list[str] = []
    for name in table.columns:
        name = name.lstrip(">~")
        names.append(name if name not in names else f"{name} {names.count(name) + 1}")
    return [dict(zip(names, (cell.text for cell in row), strict=True)) for row in table.rows]


BUSY = pool(
    size=8, used=7, idle=1, waiters=2, oldest_waiter=1.25, acquired=500, waited=40, timeouts=3,
    too_many_waiters=1, leaks=2, pins={"set": 3, "raw": 1}, per_second=12.345,
    evictions={"lag": 2}, read_retries={"conflict": 3},
    wait=histogram(ms5=40), use=histogram(ms25=90, ms2500=9, beyond=1),
)  # fmt: skip


def test_each_pool_of_each_process_and_a_total() -> None:
    found = report(
        status(101, BUSY, pool("report", state="paused", mode="transaction"), command="gunicorn"),
        status(102, pool(), command="manage.py\x1b[2J"),
        status(103, command="idle"),
    )
    now = rows(tables(found)[0])
    assert [(row["PID"], row["COMMAND"], row["POOL"]) for row in now] == [
        ("101", "gunicorn", "default"), ("101", "gunicorn", "report"),
        ("102", "manage.py?[2J", "default"), ("103", "idle", "-"),
        ("total", "of 2", "default"), ("total", "of 1", "report"),
    ]  # fmt: skip
    assert now[0] == {
        "PID": "101", "COMMAND": "gunicorn", "POOL": "default", "MODE": "session", "SIZE": "8/8",
        "USED": "7", "IDLE": "1", "CONN": "0", "WAIT": "2", "OLDEST": "1.2 s", "UTIL": "88%",
    }  # fmt: skip
    assert now[1]["MODE"] == "transaction, paused"
    assert (now[2]["WAIT"], now[2]["OLDEST"]) == ("0", "-")
    assert (now[4]["SIZE"], now[4]["USED"], now[4]["UTIL"]) == ("8/16", "7", "44%")


def test_the_last_minute_and_the_life_of_each() -> None:
    found = report(status(101, BUSY, age=7200.0), status(102, pool()))
    lately, since = rows(tables(found)[1]), rows(tables(found)[2])
    # 460 did not wait at all; 1 of 100 was held for longer than can be told.
    assert lately[0] == {
        "PID": "101", "POOL": "default", "ACQUIRES/S": "12.3",
        "WAIT P50": "0.5 ms", "P95": "5 ms", "P99": "5 ms",
        "USE P50": "25 ms", "P95 2": "2.5 s", "P99 2": "2.5 s",
    }  # fmt: skip
    assert [lately[1][name] for name in ("WAIT P50", "P95", "P99")] == ["-", "-", "-"]
    assert since[0] == {
        "PID": "101", "AGE": "2 h", "POOL": "default", "ACQUIRED": "500", "QUEUED": "40",
        "TIMEOUTS": "3", "REFUSED": "1", "LEAKS": "2", "PINS": "raw 1, set 3",
        "ERRORS": "-", "EVICTED": "lag 2", "READ AGAIN": "conflict 3",
    }  # fmt: skip
    assert since[1]["PINS"] == "-"
    assert (since[2]["PID"], since[2]["ACQUIRED"]) == ("total", "500")


def test_a_quantile_beyond_the_last_bucket_says_so() -> None:
    found = report(status(101, pool(use=histogram(beyond=3))))
    assert rows(tables(found)[1])[0]["USE P50"] == ">30 s"


def test_who_waits_and_who_is_full_stands_out() -> None:
    [busy] = tables(report(status(101, pool(used=8, size=8, waiters=1, oldest_waiter=0.1))))[
        0
    ].rows[:1]
    assert {cell.text: cell.tone for cell in busy if cell.tone} == {"1": "bad", "100%": "warn"}
    [quiet] = tables(report(status(101, pool())))[0].rows[:1]
    assert not any(cell.tone for cell in quiet)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 ms"), (0.0005, "0.5 ms"), (0.0123, "12.3 ms"), (0.9, "900 ms"), (1.25, "1.2 s"),
        (119.0, "119.0 s"), (120.0, "2 min"), (7200.0, "2 h"), (86400.0 * 3, "3 d"),
    ],
)  # fmt: skip
def test_durations_are_said_as_people_do(seconds: float, text: str) -> None:
    assert duration(seconds) == text


# -- servers


def server(**values: Any) -> Server:
    shares = (
        Share(whose="process", pids=(101,), may_open=8, open=4, connections=4,
              idle_in_transaction=1, longest=12.3),
        Share(whose="here", pids=(102,), connections=2, idle_in_transaction=0),
        Share(whose="elsewhere", pids=(1, 2, 3), hosts=2, connections=5),
        Share(whose="others", connections=1, idle_in_transaction=0),
    )  # fmt: skip
    facts = {"aliases": ("default", "report"), "max_connections": 20, "reserved": 3}
    return Server(**{**facts, "connections": 12, "may_open": 8, "shares": shares, **values})


def test_whose_the_connections_of_a_server_are() -> None:
    [table, _] = tables(report(servers=(server(),)))
    assert table.title.text == (
        "Server of default, report: 12 of 17 connections (max_connections 20 less 3 reserved)"
    )
    assert [tuple(row.values()) for row in rows(table)] == [
        ("pid 101", "8", "4", "4", "1, for 12.3 s"),
        ("pid 102 of this host, which did not answer", "-", "-", "2", "-"),
        ("3 processes on 2 other hosts", "-", "-", "5", "not shown"),
        ("others", "-", "-", "1", "-"),
    ]
    [budget] = table.notes
    assert budget.text == (
        "Budget: 8 that these processes may open, and the 8 of the others, are 16 of 17. "
        "What other hosts may open cannot be asked from here."
    )
    assert not budget.tone


def test_those_that_did_not_answer_are_named_unless_they_are_many() -> None:
    for pids, whose in ((1, 2, 3), "pid 1, 2, 3"), ((1, 2, 3, 4), "4 processes"):
        silent = Share(whose="here", pids=pids, connections=4)
        [table, _] = tables(report(servers=(server(shares=(silent,)),)))
        [row] = rows(table)
        assert row["CONNECTIONS OF"] == f"{whose} of this host, which did not answer"


def test_a_budget_that_does_not_fit_stands_out() -> None:
    [table, _] = tables(report(servers=(server(may_open=10),)))
    assert table.notes[0].tone == "bad"


def test_a_server_to_which_nobody_is_connected_has_no_rows_and_no_heading_for_them() -> None:
    [table, _] = tables(report(servers=(server(shares=()),)))
    assert (table.columns, table.rows) == ((), [])
    assert table.notes[0].text.startswith("Budget: 8 that these processes may open, and the 0 of")


def test_a_server_that_was_not_reached() -> None:
    down = server(connections=None, max_connections=None, reserved=None, errors={"default": "E"})
    [table, _] = tables(report(servers=(down,)))
    assert table.title == (
        "Server of default, report: not reached; the pools may open 8", "bad",
    )  # fmt: skip
    assert table.columns == ()


# -- leases and pins


def test_leases_of_all_processes_the_oldest_first() -> None:
    at = ["/app/views.py:3 report", "/app/wsgi.py:1 call\x1b"]
    found = report(
        status(101, pool(), leases=[lease(1, seconds=0.5, stack=at), lease(2, seconds=8.0)]),
        status(102, pool(), leases=[
            lease(9, pid=102, seconds=3.0, stack=at, where=None, statement=None, pinned="set",
                  thread="worker\n7", backend_pid=0),
        ]),
    )  # fmt: skip
    table = tables(found)[3]
    assert [row["LEASE"] for row in rows(table)] == [
        "101/default/2",
        "102/default/9",
        "101/default/1",
    ]
    assert rows(table)[1] == {
        "LEASE": "102/default/9", "HELD": "3.0 s", "STATUS": "idle", "STATEMENT": "-",
        "PINNED": "set", "THREAD": "worker?7", "WHERE": "-", "BACKEND": "-",
    }  # fmt: skip
    # Each stack once, by the oldest lease of those that were acquired there.
    assert [note.text for note in table.notes] == [
        "102/default/9 and 1 other acquired at",
        "    /app/views.py:3 report",
        "    /app/wsgi.py:1 call?",
    ]


def test_of_stacks_the_applications_own_lines_are_shown() -> None:
    libraries = "/venv/lib/python3.13/site-packages/django/db/models/query.py:9 __iter__"
    found = report(
        status(101, pool(), leases=[
            lease(1, seconds=2.0, stack=[libraries, "/app/views.py:3 report"]),
            lease(2, seconds=1.0, stack=["/app/views.py:3 report", libraries]),
        ]),
    )  # fmt: skip
    assert [note.text for note in tables(found)[3].notes] == [
        "101/default/1 and 1 other acquired at",
        "    /app/views.py:3 report",
        "Frames of the application are shown: --format json has all.",
    ]


def test_no_lease_is_said() -> None:
    assert "No lease" in shown(report(status(101, pool(), leases=[])))


def test_leases_nobody_asked_for_are_not_mentioned() -> None:
    assert not any("ease" in each for each in shown(report(status(101, pool()))))


def test_findings_below_their_verdict() -> None:
    many = [(f"shop.views:{number}", "idle", 1, 100.0 - number) for number in range(25)]
    processes = [
        status(
            101,
            pool(pins={"set": 2}),
            observations={
                "default": observed(("a:1", "set", 2, 200.0), *many, held=9999.0, idle=1.0)
            },
        )
    ]
    found = report(*processes, verdicts=tuple(judge(processes)))
    table = tables(found)[3]
    assert table.title.text.startswith("Transaction mode for default: safe by what was seen")
    assert rows(table)[0] == {"LINE": "a:1", "REASON": "set", "COUNT": "2", "SECONDS": "200.0"}
    assert len(table.rows) == 20
    notes = [note.text for note in table.notes]
    assert notes[:2] == ["Pinned leases by reason: set 2.", "6 more lines: --format json has all."]
    assert "connection_created" in notes[2]


def test_what_rds_proxy_would_pin_over_all_processes() -> None:
    many = [[f"shop.views:{number}", "cursor", 1] for number in range(25)]
    processes = [
        status(101, pool(), observations={}, rds_proxy={"default": [["a:1", "LISTEN", 2], *many]}),
        status(102, pool(), observations={}, rds_proxy={"default": [["a:1", "LISTEN", 3]]}),
        status(103, pool(), observations={}),
    ]
    found = report(*processes, verdicts=tuple(judge(processes)))
    [table] = [table for table in tables(found) if "RDS Proxy" in table.title.text]
    assert rows(table)[0] == {"LINE": "a:1", "CONDITION": "LISTEN", "COUNT": "5"}
    assert len(table.rows) == 20
    assert [note.text for note in table.notes] == ["6 more lines: --format json has all."]
    assert found.as_dict()["verdicts"][0]["rds_proxy"][0] == {
        "site": "a:1", "condition": "LISTEN", "count": 5,
    }  # fmt: skip


def test_what_nobody_observed_has_no_findings_and_no_caveat() -> None:
    processes = [status(101, pool(), observations={})]
    table = tables(report(*processes, verdicts=tuple(judge(processes))))[3]
    assert (table.columns, table.notes) == ((), [])
    assert table.title.text.startswith("Transaction mode for default: unknown")


# -- how it stands


def test_at_the_end_stands_how_it_is() -> None:
    last = shown(report(status(101, pool()), status(102, pool("other"))))[-1]
    assert last.endswith(" fine: 2 processes, 2 pools")


def test_what_is_wrong_stands_below() -> None:
    problems = (
        Problem(code=3, text="No process.\n  - why"),
        Problem(code=1, pid=7, pool="a", text="waits\x07"),
        Problem(code=0, text="to be known"),
    )
    *_, conclusion = tables(report(problems=problems))
    assert conclusion.title.text.endswith(" no process: 0 processes, 0 pools")
    assert conclusion.title.tone == "bad"
    assert conclusion.notes == [
        ("No process.", "bad"), ("  - why", "bad"), ("pid 7, a: waits?", "bad"),
        ("to be known", "warn"),
    ]  # fmt: skip


def test_one_line_for_a_log() -> None:
    text = line(report(status(101, BUSY), status(102, pool()), servers=(server(),)))
    when, _, rest = text.partition(" ")
    assert when[4] == "-"
    assert rest == (
        "status=fine processes=2 pool=default used=7/16 idle=1 waiters=2 oldest_waiter=1.250 "
        "acquires_per_second=12.3 timeouts=3 server=default used=12/17"
    )
    down = line(report(problems=(Problem(code=3, text="x"),), servers=(server(connections=None),)))
    assert down.endswith(" status=no_process processes=0")

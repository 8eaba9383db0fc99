"""What is concluded from what processes observed, and from what they pinned."""

from __future__ import annotations

from typing import Any

from django_poolkit.control.verdicts import Finding, Verdict, judge
from tests.control.statuses import observed, pool, status

IDLE = ("shop.views:8", "idle", 10, 6.0)
PIN = ("shop.views:11", "set", 4, 1.0)


def verdict(*found: dict[str, Any], mode: str = "session", **values: Any) -> Verdict:
    """Judge as many processes as there are observations, at least one."""
    processes = [
        status(number, pool(mode=mode, **values), observations={"default": part} if part else {})
        for number, part in enumerate(found or ({},), start=101)
    ]
    [judged] = judge(processes)
    return judged


def test_what_several_processes_saw_is_added_up():
    judged = verdict(
        observed(IDLE, PIN, held=10.0, idle=6.0),
        observed(IDLE, ("shop.views:20", "idle", 1, 9.0), held=20.0, idle=15.0),
        acquired=50,
        pins={"set": 2},
    )
    assert (judged.leases, judged.pins) == (100, {"set": 4})
    assert (judged.held, judged.idle, judged.share) == (30.0, 21.0, 0.7)
    assert judged.findings == (
        Finding(site="shop.views:8", reason="idle", count=20, seconds=12.0),
        Finding(site="shop.views:20", reason="idle", count=1, seconds=9.0),
        Finding(site="shop.views:11", reason="set", count=4, seconds=1.0),
    )


def test_safe_where_no_line_would_pin():
    judged = verdict(observed(IDLE, held=10.0, idle=6.0))
    assert judged.word == "safe"
    assert judged.text == (
        "safe by what was seen: no line would pin. Of the 10.0 s for which connections were "
        "held, 6.0 s (60%) would be saved"
    )


def test_safe_with_pins_where_lines_would():
    again = ("shop.views:11", "temp_table", 1, 0.5)
    judged = verdict(observed(IDLE, PIN, again, held=10.0, idle=6.0), acquired=100, pins={"set": 4})
    assert judged.word == "pins"
    assert "one line would pin 4 leases of 100, which then work as in session mode" in judged.text


def test_not_yet_where_a_statement_would_be_refused():
    judged = verdict(
        observed(IDLE, PIN, ("shop.models:3", "sequence", 1, 0.0), held=10.0, idle=6.0)
    )
    assert judged.word == "mend"
    assert "lastval() at shop.models:3 would be refused" in judged.text


def test_it_says_when_little_is_to_be_had():
    assert verdict(observed(IDLE, held=100.0, idle=6.0)).text.endswith(
        "(6%) would be saved, which is little"
    )


def test_unknown_where_nothing_was_observed():
    judged = verdict()
    assert judged.word == "unknown"
    assert "'observe'" in judged.text
    judged = verdict(observed(held=0.0, idle=0.0))
    assert (judged.word, judged.share) == ("unknown", 0.0)
    assert "nothing has run yet" in judged.text


def test_in_use_it_tells_how_many_were_pinned():
    judged = verdict(mode="transaction", acquired=200, pins={"set": 1})
    assert (judged.word, judged.text) == ("used", "in use. Pinned: 1 lease of 200")


def test_one_that_still_observes_is_believed_during_a_deployment():
    processes = [
        status(1, pool(mode="transaction"), observations={}),
        status(2, pool(), observations={"default": observed(IDLE, held=10.0, idle=6.0)}),
    ]
    assert [judged.word for judged in judge(processes)] == ["safe"]


def test_each_pool_has_its_own():
    found = status(
        1,
        pool("default"),
        pool("report", mode="transaction"),
        observations={"default": observed(IDLE, held=10.0, idle=6.0)},
    )
    assert [(judged.pool, judged.word) for judged in judge([found])] == [
        ("default", "safe"),
        ("report", "used"),
    ]

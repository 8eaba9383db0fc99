"""What a server has, divided; and when it is time for PgBouncer."""

from __future__ import annotations

from dataclasses import replace

import pytest

from django_poolkit.pools.budget import Budget, Plan, plan
from django_poolkit.pools.fleet import Part
from django_poolkit.pools.queueing import Load, Queue
from django_poolkit.pools.sizing import UseTimes

TARGET = 0.05


def load(rate: float) -> Load:
    return Load(asked=((60.0, rate),), use=UseTimes.exponential(0.02))


def planned(*parts: Part, most: int = 100) -> Plan:
    return plan(parts, Budget(max_connections=most, reserved=3), TARGET, timeout=4.5)


def test_the_budget_is_what_nobody_else_has() -> None:
    budget = Budget(max_connections=100, reserved=3, others=12, spare=5)
    assert (budget.usable, budget.room) == (97, 80)
    assert (budget.each(6), budget.each(80), budget.each(81)) == (13, 1, 0)


def test_more_others_than_there_is_room_leave_nothing() -> None:
    assert Budget(max_connections=10, reserved=3, others=20).room == 0


def test_what_fits_needs_no_pooler() -> None:
    found = planned(Part(processes=8, size=10, load=load(50.0)), Part(processes=2, size=6))
    assert (found.word, found.processes, found.needed, found.room) == ("fits", 10, 92, 92)
    assert (found.pooler, found.direct) == (None, None)
    assert found.beyond is not None


def test_what_fits_says_up_to_how_many_hosts_and_what_is_to_come_then() -> None:
    host = Part(processes=8, size=4, load=load(50.0))
    found = planned(host)
    assert (found.word, found.hosts_that_fit) == ("fits", 2)
    # As it is found to be, once they are there.
    two, three = (replace(host, processes=8 * hosts) for hosts in (2, 3))
    assert planned(two).word == "fits"
    then = planned(three)
    assert (then.word, then.pooler) == ("pooler", found.beyond)
    assert then.pooler is not None
    assert then.pooler.settings["max_client_conn"] == "120"  # 3 * 8 * 4, and a quarter more
    # Nor does it depend on how many there are.
    budget = Budget(max_connections=100, reserved=3)
    for part, hosts in ((two, 2), (three, 3)):
        assert plan([part], budget, TARGET, timeout=4.5, hosts=hosts).hosts_that_fit == 2
    assert plan([two], budget, TARGET, timeout=4.5, hosts=2).beyond == found.beyond


def test_what_each_host_has_beside_its_pools_comes_with_each() -> None:
    two = Part(processes=2, size=20, load=load(50.0))
    beside = Budget(max_connections=100, reserved=3, others=20, beside=10)
    # 92 connections, and of each host 20 and 10.
    assert plan([two], beside, TARGET, timeout=4.5, hosts=2).hosts_that_fit == 3


def test_where_one_host_more_is_more_work_than_connections_no_pooler_is_told_of() -> None:
    found = planned(Part(processes=1, size=60, load=load(2500.0)))  # 50 connections' worth
    assert (found.word, found.hosts_that_fit, found.beyond) == ("fits", 1, None)


def test_one_too_many_is_time_for_a_pooler_which_needs_far_fewer() -> None:
    found = planned(Part(processes=93, size=1, load=load(2.0)))
    assert (found.word, found.needed) == ("pooler", 93)
    assert found.pooler is not None
    assert found.pooler.pool_size < 15  # 93 * 2 * 0.02 are 3.7 connections on average


def test_five_hundred_workers_get_by_on_one_server_through_a_pooler() -> None:
    part = Part(processes=500, size=2, load=load(2.0))
    found = planned(part)
    assert found.word == "pooler"
    assert found.pooler is not None
    assert 20 < found.pooler.pool_size <= found.room
    assert found.pooler.shared.p99 <= TARGET
    assert found.pooler.settings == {
        "pool_mode": "transaction",
        "default_pool_size": str(found.pooler.pool_size),
        "max_client_conn": "1250",  # 500 * 2, and a quarter more
        "query_wait_timeout": "5",
    }
    assert found.direct is not None
    assert found.direct.timeouts > 0.5
    # One connection fewer would not do.
    assert part.total is not None
    fewer = Queue([part.total], timeout=4.5).at(found.pooler.pool_size - 1)
    assert fewer.p99 > TARGET


def test_where_there_is_more_work_than_connections_a_pooler_is_no_help() -> None:
    found = planned(Part(processes=500, size=2, load=load(12.0)))  # 120 connections' worth
    assert (found.word, found.pooler) == ("too_much", None)
    assert found.direct is not None


def test_of_processes_that_do_nothing_no_pooler_can_be_told_the_size() -> None:
    assert planned(Part(processes=50, size=10)).word == "too_much"


def test_what_each_holds_all_the_time_all_hold() -> None:
    held = Load(asked=((60.0, 1.0),), use=UseTimes.exponential(0.02), held=1)
    part = Part(processes=60, size=2, load=held)
    assert part.total is not None
    assert part.total.held == 60
    assert part.total.rate == pytest.approx(60.0)
    found = planned(part)
    assert found.pooler is not None
    assert found.pooler.pool_size > 60

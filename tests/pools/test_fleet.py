"""Many processes on one server, simulated."""

from __future__ import annotations

import pytest

from django_poolkit.pools.fleet import FleetPrediction, Part, simulate_fleet
from django_poolkit.pools.queueing import Load, Queue
from django_poolkit.pools.sizing import UseTimes


def load(rate: float, *, mean: float = 0.02) -> Load:
    return Load(asked=((60.0, rate),), use=UseTimes.exponential(mean))


def fleet(
    processes: int, size: int, slots: int, *, rate: float = 2.0, max_idle: float = 600.0
) -> FleetPrediction:
    part = Part(processes=processes, size=size, load=load(rate))
    return simulate_fleet([part], slots, timeout=5.0, max_idle=max_idle)


def test_five_hundred_processes_on_a_server_of_a_hundred_starve_each_other() -> None:
    # 1000 acquires a second for 20 ms are 20 connections' worth of work: there is enough. But
    # who has a connection keeps it, so that four of five processes never get one.
    found = fleet(500, 2, 92)
    assert found.connections == 92
    assert found.without == pytest.approx(410, abs=10)
    assert found.timeouts == pytest.approx(410 / 500, abs=0.03)
    assert found.p99 == 5.0


def test_the_same_work_in_one_queue_waits_for_nothing() -> None:
    shared = Queue([load(1000.0)], timeout=5.0).at(40)
    assert shared.p99 == 0.0


def test_on_a_server_with_enough_nobody_waits_but_for_connects() -> None:
    found = fleet(500, 2, 1000)
    assert (found.without, found.timeouts) == (0, 0.0)
    assert found.connections <= 1000
    assert found.p99 <= 0.01  # as long as a connect


def test_no_process_has_more_than_its_size() -> None:
    assert fleet(10, 3, 100, rate=1000.0).connections == 30


def test_connections_that_are_soon_closed_go_round() -> None:
    kept, closed = fleet(100, 1, 50), fleet(100, 1, 50, max_idle=0.1)
    assert (kept.without, closed.without) == (50, 0)
    assert closed.timeouts < kept.timeouts / 5


def test_one_process_alone_is_a_queue_like_any_other() -> None:
    found = fleet(1, 4, 100, rate=150.0)
    alone = Queue([load(150.0)], timeout=5.0).at(4)
    assert found.p99 == pytest.approx(alone.p99, rel=0.1)
    assert found.p50 == pytest.approx(alone.p50, abs=0.002)


def test_of_two_kinds_each_has_its_own_size() -> None:
    web = Part(processes=2, size=8, load=load(600.0))
    tasks = Part(processes=3, size=2, load=load(300.0))
    idle = Part(processes=5, size=10)
    found = simulate_fleet([web, tasks, idle], 100, timeout=5.0)
    assert (found.processes, found.connections, found.without) == (10, 2 * 8 + 3 * 2, 0)


def test_a_server_with_nothing_left_serves_nobody() -> None:
    found = fleet(2, 2, 0)
    assert (found.connections, found.timeouts, found.without) == (0, 1.0, 2)


def test_nobody_comes_where_nothing_is_asked_for() -> None:
    found = simulate_fleet([Part(processes=4, size=2)], 10, timeout=5.0)
    assert (found.acquires, found.connections, found.timeouts) == (0, 0, 0.0)

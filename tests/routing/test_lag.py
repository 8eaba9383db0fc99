"""How far a replica is behind, and when that is too far: by positions that are made up."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from django_poolkit.conf.clusters import Cluster
from django_poolkit.pools.postgres.standing import Standing
from django_poolkit.routing.lag import Course, Lag

pytestmark = pytest.mark.core

MIB = 1024 * 1024
CLUSTER = Cluster("default", "default", ("replica",), max_lag=60.0, max_lag_bytes=100 * MIB)


def primary(at: float, position: int, **more: Any) -> Standing:
    facts: dict[str, Any] = {
        "observed": at, "in_recovery": False, "system": 7, "timeline": 3, "position": position,
        "fed": False, "age": None,
    }  # fmt: skip
    return Standing(**facts | more)


def replica(at: float, position: int, age: float | None = 0.0, **more: Any) -> Standing:
    facts = {"in_recovery": True, "fed": True, "age": age} | more
    return primary(at, position, **facts)


def course(*looks: Standing) -> Course:
    found = Course()
    for look in looks:
        found.of_primary(look)
    return found


def said(found: Course, standing: Standing, **limits: Any) -> tuple[str, str | None]:
    return tuple(found.verdict(standing, replace(CLUSTER, **limits)))  # type: ignore[return-value]


def refusal(found: Course) -> str | None:
    return found.refused


WELL, UNKNOWN = ("well", None), ("unknown", None)


# -- seconds and bytes


def test_an_idle_primary_makes_nobody_late():
    found = course(*(primary(at, 1000) for at in range(0, 7200, 5)))
    idle = replica(7200, 1000, age=7200.0)
    assert found.lag(idle) == Lag(0.0, 0)
    assert said(found, idle) == WELL


def test_the_first_write_after_a_long_rest_makes_nobody_late():
    found = course(*(primary(at, 1000) for at in range(0, 7200, 5)), primary(7200, 1500))
    behind = replica(7200.5, 1000, age=7200.0)
    assert found.lag(behind) == Lag(5.5, 500)  # since the look before, at most
    assert said(found, behind) == WELL
    found.of_primary(primary(7205, 2000))
    # Nor with a limit below the pause between two looks.
    assert said(found, replica(7205.5, 1500, age=7205.0), max_lag=0.1) == WELL


def test_who_stays_behind_for_longer_than_the_limit_is_too_late():
    found = course()
    verdicts = []
    for at in range(0, 100, 5):
        found.of_primary(primary(at, 1000 + at))
        verdicts.append(said(found, replica(at, 1000, age=at + 0.5)))
    assert verdicts == [WELL] * 13 + [("bad", "lag")] * 7
    assert said(found, replica(95, 1000, age=95.0), max_lag=None) == WELL
    assert found.lag(replica(95, 1000, age=95.0)) == Lag(95.0, 95)


def test_a_process_that_has_just_begun_believes_the_server():
    found = course(primary(0, 5000))
    late = replica(0, 1000, age=600.0)
    assert found.lag(late) == Lag(600.0, 4000)
    assert said(found, late) == WELL  # it may be on its way: nobody knows since when it is due
    found.of_primary(primary(4, 5000))
    assert said(found, late) == ("bad", "lag")
    assert said(found, replica(4, 1000, age=None)) == WELL  # it has replayed no commit, ever


def test_too_many_bytes_are_too_many_at_once():
    found = course(primary(0, 200 * MIB))
    assert said(found, replica(0, 100 * MIB)) == WELL
    assert said(found, replica(0, 100 * MIB - 1)) == ("bad", "lag")
    assert said(found, replica(0, 1), max_lag_bytes=None) == WELL


# -- who sends


def test_who_is_cut_off_is_left_once_it_has_missed_something():
    found = course(primary(0, 1000), primary(5, 1000))
    assert said(found, replica(5, 1000, fed=False)) == WELL  # there is nothing to miss
    found.of_primary(primary(10, 2000))
    assert said(found, replica(10, 1000, fed=False)) == WELL  # it may be on its way
    found.of_primary(primary(15, 2000))
    assert said(found, replica(15, 1000, fed=False)) == ("bad", "cut")
    assert said(found, replica(15, 1000, fed=True)) == WELL


# -- without a primary


def test_without_a_primary_nobody_becomes_late():
    found = course(primary(0, 1000), primary(5, 2000))
    found.lost("refuses")
    for at in (10, 1000):
        assert said(found, replica(at, 2000, age=1000.0, fed=False)) == WELL
        assert said(found, replica(at, 1999, age=1000.0, fed=False)) == UNKNOWN
        assert found.lag(replica(at, 1999)) is None
    found.of_primary(primary(1000, 2000))
    assert refusal(found) is None
    assert said(found, replica(1000, 2000)) == WELL


def test_a_replica_is_read_where_no_primary_was_ever_seen():
    found = course()
    found.lost("refuses")
    assert said(found, replica(5, 1000, fed=False)) == WELL


# -- roles and timelines


def test_the_primary_by_another_name_may_be_read():
    found = course(primary(0, 1000))
    assert said(found, primary(0, 1100)) == WELL
    assert found.lag(primary(0, 900)) == Lag(0.0, 0)


def test_a_replica_that_was_promoted_is_none():
    found = course(primary(0, 1000))
    assert said(found, primary(0, 1100, timeline=4)) == ("bad", "not_a_replica")
    assert said(Course(), primary(0, 1100)) == ("bad", "not_a_replica")


def test_an_old_primary_is_refused_once_another_has_been_seen():
    found = course(primary(0, 1000))
    found.seen(replica(0, 500, timeline=2))
    found.of_primary(primary(5, 1100))
    assert refusal(found) is None
    found.seen(primary(5, 1200, timeline=4))
    found.of_primary(primary(10, 9000))
    assert refusal(found) == "timeline"
    # What it says of how far it has come counts for nothing.
    assert said(found, replica(10, 1150, timeline=4, age=0.0)) == WELL
    assert found.lag(replica(10, 1150)) is None
    found.of_primary(primary(15, 1300, timeline=4))
    assert refusal(found) is None
    assert said(found, replica(15, 1250, timeline=4)) == WELL
    assert said(found, replica(15, 9000, timeline=3)) == ("bad", "timeline")


def test_a_replica_in_the_primarys_place_is_no_primary():
    found = course(primary(0, 1000), replica(5, 2000))
    assert refusal(found) == "not_a_primary"
    assert said(found, replica(5, 1500)) == WELL


def test_a_replica_of_something_else_is_never_read():
    found = course(primary(0, 1000))
    assert said(found, replica(0, 1000, system=8)) == ("bad", "system")
    found.seen(replica(0, 1000, system=8, timeline=9))
    found.of_primary(primary(5, 1000))
    assert refusal(found) is None
    # A primary that has moved to other servers takes its replicas with it, or leaves them.
    found.of_primary(primary(10, 500, system=8, timeline=1))
    assert refusal(found) is None
    assert said(found, replica(10, 500, system=8, timeline=1)) == WELL
    assert said(found, replica(10, 1000)) == ("bad", "system")


def test_positions_of_an_earlier_timeline_say_nothing():
    found = course(primary(0, 9000), primary(5, 500, timeline=4))
    assert said(found, replica(5, 400, timeline=4, age=900.0)) == WELL
    assert found.lag(replica(5, 400, timeline=4, age=900.0)) == Lag(900.0, 100)
    assert found.lag(replica(5, 400, timeline=5)) is None

"""Which of several servers a visitor reads: the same each time, each for its share."""

from __future__ import annotations

from collections import Counter

import pytest

from django_poolkit.routing.floors import Floor, Position
from django_poolkit.routing.members import chosen_by
from django_poolkit.routing.scopes import Scope

pytestmark = pytest.mark.core

VISITORS = [f"visitor {n}".encode() for n in range(4000)]


def test_each_gets_its_share():
    found = Counter(chosen_by(visitor, {"a": 3.0, "b": 1.0}) for visitor in VISITORS)
    assert 0.72 < found["a"] / len(VISITORS) < 0.78


def test_it_is_the_same_each_time_whatever_the_order():
    for visitor in VISITORS[:100]:
        one = chosen_by(visitor, {"a": 1.0, "b": 1.0, "c": 2.0})
        assert one == chosen_by(visitor, {"c": 2.0, "b": 1.0, "a": 1.0})


def test_where_one_is_gone_only_its_own_visitors_go_elsewhere():
    everyone = {"a": 1.0, "b": 2.0, "c": 1.0}
    left = {"a": 1.0, "c": 1.0}
    moved = Counter[str]()
    for visitor in VISITORS:
        before, after = chosen_by(visitor, everyone), chosen_by(visitor, left)
        assert before in (after, "b")
        if before == "b":
            moved[after] += 1
    assert 0.4 < moved["a"] / moved.total() < 0.6


def test_a_position_of_the_primary_takes_the_place_of_what_had_come_in():
    here = Scope()
    here.raise_floor("default", Floor(Position(1, 1, 900), 50.0))
    here.place("default", Floor(Position(1, 2, 500), 30.0))
    assert here.floors["default"] == Floor(Position(1, 2, 500), 30.0)
    # From there on it only rises.
    here.place("default", Floor(Position(1, 2, 400), 31.0))
    assert here.floors["default"] == Floor(Position(1, 2, 500), 31.0)


def test_a_time_pin_does_not():
    here = Scope()
    here.raise_floor("default", Floor(Position(1, 1, 900), 50.0))
    here.place("default", Floor(None, 5.0))
    assert here.floors["default"] == Floor(None, 50.0)

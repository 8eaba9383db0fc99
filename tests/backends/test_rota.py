"""Smooth weighted round robin: exact shares, no runs, one choice a scope, safe for threads."""

from __future__ import annotations

import os
import threading
from collections import Counter
from itertools import groupby

import pytest

from django_poolkit.backends.request import RequestScope
from django_poolkit.backends.rota import Rota
from tests.pools.support import Call

pytestmark = pytest.mark.core


@pytest.mark.parametrize(
    ("weights", "shares"),
    [
        ({"1": 1.0}, {"1": 120}),
        ({"1": 1.0, "2": 1.0}, {"1": 60, "2": 60}),
        ({"1": 3.0, "2": 1.0}, {"1": 90, "2": 30}),
        ({"a": 1.0, "b": 2.0, "c": 3.0}, {"a": 20, "b": 40, "c": 60}),
        ({"a": 0.5, "b": 1.5}, {"a": 30, "b": 90}),
    ],
)
def test_shares_are_exact_wherever_it_begins(weights, shares):
    for _ in range(20):
        rota = Rota()
        assert Counter(rota.pick("x", weights) for _ in range(120)) == shares


def test_a_heavy_host_has_its_turns_spread():
    rota = Rota()
    turns = [rota.pick("x", {"heavy": 3.0, "light": 1.0}) for _ in range(40)]
    runs = [len(list(run)) for key, run in groupby(turns) if key == "heavy"]
    assert max(runs) == 3


def test_processes_do_not_all_begin_with_the_same():
    assert {Rota().pick("x", {"1": 1.0, "2": 1.0}) for _ in range(200)} == {"1", "2"}


def test_aliases_take_turns_of_their_own():
    rota = Rota()
    weights = {"1": 1.0, "2": 1.0}
    pairs = [(rota.pick("x", weights), rota.pick("y", weights)) for _ in range(10)]
    assert {len({pair[side] for pair in pairs}) for side in (0, 1)} == {2}


def test_who_is_left_out_for_a_while_makes_up_for_nothing():
    rota, weights = Rota(), {"1": 1.0, "2": 1.0}
    for _ in range(50):
        assert rota.pick("x", {"2": 1.0}) == "2"
    turns = Counter(rota.pick("x", weights) for _ in range(10))
    assert turns == {"1": 5, "2": 5}


def test_a_scope_keeps_its_host_until_that_is_left_out():
    rota, scope, weights = Rota(), RequestScope(), {"1": 1.0, "2": 1.0}
    first = rota.pick_once(scope, "x", weights)
    assert {rota.pick_once(scope, "x", weights) for _ in range(5)} == {first}
    (other,) = set(weights) - {first}
    assert rota.pick_once(scope, "x", {other: 1.0}) == other
    assert {rota.pick_once(scope, "x", weights) for _ in range(5)} == {other}
    assert scope.hosts == {"x": other}


def test_threads_share_the_turns():
    rota, weights = Rota(), {"1": 3.0, "2": 1.0}
    calls = [Call(lambda: [rota.pick("x", weights) for _ in range(1000)]) for _ in range(8)]
    found = Counter(key for call in calls for key in call.result())
    assert found == {"1": 6000, "2": 2000}


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_does_not_wait_for_a_lock_that_its_parent_held():
    from django_poolkit.backends.rota import rota

    with rota._lock:
        child = os.fork()
        if child == 0:  # pragma: no cover
            os._exit(0 if rota.pick("x", {"1": 1.0}) == "1" else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_threads_that_choose_for_one_scope_at_once_agree():
    rota, weights = Rota(), {"1": 1.0, "2": 1.0}
    both = threading.Barrier(2)

    class Late(dict[str, str]):
        """Has both threads see that nothing has been chosen, before one of them chooses."""

        seen = 0

        def get(self, key, default=None):
            found = super().get(key, default)
            if self.seen < 2:
                self.seen += 1
                both.wait(10.0)
            return found

    for _ in range(4):
        scope = RequestScope()
        scope.hosts = Late()
        first, second = (Call(rota.pick_once, scope, "x", weights) for _ in range(2))
        assert first.result() == second.result()

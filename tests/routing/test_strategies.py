"""By what one of several replicas is chosen: shares, and who never is."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable
from typing import Any, get_args

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from django_poolkit.backends.rota import rota
from django_poolkit.conf.choosing import Choice
from django_poolkit.routing.strategies import CLEARLY, Load, Strategy, drawn, pick

pytestmark = pytest.mark.core

NAMES = ("a", "b", "c", "d")
WEIGHTS = st.dictionaries(st.sampled_from(NAMES), st.sampled_from([0.5, 1.0, 2.0, 3.0]), min_size=1)
LOADS = st.fixed_dictionaries(
    dict.fromkeys(
        NAMES,
        st.builds(Load, st.integers(0, 5), st.none() | st.sampled_from([0.001, 0.002, 0.05])),
    )
)


@pytest.fixture(autouse=True)
def fresh_turns():
    rota._turns.clear()
    yield
    rota._turns.clear()


def resting(name: str) -> Load:
    return Load(0, None)


def shares(
    strategy: Strategy,
    weights: dict[str, float],
    load_of: Callable[[str], Load] = resting,
    times: int = 4000,
) -> dict[str, float]:
    """Return the share of each in so many choices, by a die that always falls alike."""
    dice = random.Random(31)
    found = Counter(pick(strategy, "x", weights, load_of, dice.random) for _ in range(times))
    return {name: found[name] / times for name in weights}


def test_each_word_of_the_settings_has_its_strategy():
    assert {*get_args(Strategy), "visitor"} == {*get_args(Choice)}


@given(st.sampled_from(get_args(Strategy)), WEIGHTS, LOADS, st.integers(0, 99))
def test_what_is_chosen_is_one_of_those_that_are_there(strategy, weights, loads, seed):
    assert pick(strategy, "x", weights, loads.__getitem__, random.Random(seed).random) in weights


def test_turns_are_exact_and_heed_weights():
    assert shares("round_robin", {"a": 1.0, "b": 1.0}) == {"a": 0.5, "b": 0.5}
    assert shares("round_robin", {"a": 3.0, "b": 1.0}) == {"a": 0.75, "b": 0.25}
    names = [pick("round_robin", "x", {"a": 1.0, "b": 1.0}, resting) for _ in range(10)]
    assert all(one != other for one, other in itertools.pairwise(names))


def test_a_draw_heeds_weights_and_takes_no_turns():
    found = shares("random", {"a": 3.0, "b": 1.0})
    assert 0.73 < found["a"] < 0.77
    dice = random.Random(7)
    names = [drawn({"a": 1.0, "b": 1.0}, dice.random) for _ in range(1000)]
    same = sum(one == other for one, other in itertools.pairwise(names))
    assert 440 < same < 560


@given(WEIGHTS, st.floats(0, 1, exclude_max=True))
def test_a_draw_ends_with_one_of_them_whatever_floats_lose(weights, number):
    assert drawn(weights, lambda: number) in weights


@given(WEIGHTS, LOADS)
def test_nobody_is_chosen_while_another_has_less_to_do(weights, loads):
    chosen = pick("least_used", "x", weights, loads.__getitem__)
    would = {name: (loads[name].used + 1) / weight for name, weight in weights.items()}
    assert would[chosen] == min(would.values())


def test_those_who_have_the_same_to_do_take_turns():
    assert shares("least_used", {"a": 1.0, "b": 1.0, "c": 1.0}, lambda name: Load(2, None)) == {
        "a": pytest.approx(1 / 3, abs=1e-3),
        "b": pytest.approx(1 / 3, abs=1e-3),
        "c": pytest.approx(1 / 3, abs=1e-3),
    }


def test_what_is_held_fills_up_by_weight():
    held: Counter[str] = Counter()
    weights = {"a": 3.0, "b": 1.0}
    for _ in range(40):
        held[pick("least_used", "x", weights, lambda name: Load(held[name], None))] += 1
    assert held == {"a": 30, "b": 10}


def latencies(**seconds: float) -> Any:
    return lambda name: Load(0, seconds[name])


def test_the_clearly_slowest_is_never_chosen():
    found = shares("latency", dict.fromkeys("abc", 1.0), latencies(a=0.001, b=0.001, c=0.002))
    assert found["c"] == 0.0
    assert 0.46 < found["a"] < 0.54


def test_two_that_are_about_as_quick_have_their_shares():
    quick, slow = 0.001, 0.001 * (CLEARLY - 0.01)
    found = shares("latency", {"a": 1.0, "b": 1.0}, latencies(a=quick, b=slow))
    assert 0.47 < found["a"] < 0.53
    assert shares("latency", {"a": 1.0, "b": 1.0}, latencies(a=quick, b=1.3 * slow))["a"] == 1.0


def test_two_are_drawn_by_weight():
    # Each two of three, and the quicker one of them: "b" is left where "a" is not drawn.
    found = shares("latency", {"a": 1.0, "b": 1.0, "c": 1.0}, latencies(a=0.001, b=0.01, c=0.1))
    assert 0.64 < found["a"] < 0.69
    assert 0.31 < found["b"] < 0.36


def test_a_quick_one_that_has_much_to_do_is_left_alone():
    held: Counter[str] = Counter()
    seconds = {"near": 0.001, "far": 0.003}
    dice = random.Random(3)
    for _ in range(40):
        chosen = pick("latency", "x", dict.fromkeys(seconds, 1.0),
                      lambda name: Load(held[name], seconds[name]), dice.random)  # fmt: skip
        held[chosen] += 1
    assert 26 <= held["near"] <= 34


@given(LOADS, st.integers(0, 99))
def test_of_two_of_which_one_is_unknown_the_one_with_less_to_do_is_chosen(loads, seed):
    one, other = loads["a"], loads["b"]
    assume(one.latency is None or other.latency is None)
    assume(one.used != other.used)
    chosen = pick("latency", "x", {"a": 1.0, "b": 1.0}, loads.__getitem__,
                  random.Random(seed).random)  # fmt: skip
    assert loads[chosen].used == min(one.used, other.used)


def test_loads_are_asked_for_only_where_they_matter():
    def fail(name: str) -> Load:
        raise AssertionError(name)

    for strategy in ("round_robin", "random"):
        shares(strategy, {"a": 1.0, "b": 1.0}, fail, times=10)
    for strategy in get_args(Strategy):
        assert pick(strategy, "x", {"a": 1.0}, fail) == "a"


@pytest.mark.parametrize("strategy", ["round_robin", "least_used"])
def test_each_place_takes_turns_by_itself(strategy: Any) -> None:
    weights, load = {"a": 1.0, "b": 1.0}, Load(0, None)
    found = []
    for _ in range(6):
        found.append(pick(strategy, "one of two places", weights, lambda name: load))
        pick(strategy, "the other one", weights, lambda name: load)
    assert found in (list("ababab"), list("bababa"))


def test_what_is_drawn_is_told_by_the_generator_and_the_weights() -> None:
    weights = {"a": 1.0, "b": 3.0}
    for number, name in [(0.0, "a"), (0.2499, "a"), (0.25, "b"), (0.9999, "b")]:
        assert drawn(weights, iter([number]).__next__) == name
        assert pick("random", "", weights, no_load, iter([number]).__next__) == name


@pytest.mark.parametrize(
    ("one", "other", "chosen"),
    [
        (Load(2, None), Load(2, 0.1), "a"),
        (Load(3, None), Load(2, 0.1), "b"),
        (Load(0, 0.010), Load(0, 0.010 / CLEARLY), "a"),
        (Load(0, 0.010), Load(0, 0.009 / CLEARLY), "b"),
        (Load(0, 0.010), Load(1, 0.009 / CLEARLY), "a"),
        (Load(1, 0.010), Load(3, 0.005), "a"),
    ],
)
def test_of_two_that_are_drawn_the_first_stays_unless_it_is_clearly_slower(
    one: Load, other: Load, chosen: str
) -> None:
    loads = {"a": one, "b": other}
    weights = dict.fromkeys(loads, 1.0)
    assert pick("latency", "", weights, loads.__getitem__, lambda: 0.0) == chosen


def no_load(name: str) -> Load:
    raise AssertionError("nobody is asked")

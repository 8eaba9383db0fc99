"""By what one of several replicas is chosen: turns, a draw, how much they do, how quick they are.

Knows no server: it is given the names with their weights, and a way to ask for their loads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Literal, NamedTuple

from django_poolkit.backends.rota import rota
from django_poolkit.pools.chance import chance

Strategy = Literal["round_robin", "random", "least_used", "latency"]
Draw = Callable[[], float]
"""Returns a number from 0.0 to 1.0, which is never reached. Another one each time."""

CLEARLY: Final = 1.25
"""How many times as long the slower of two must take, for the quicker one to be preferred. Below
that it is the network that varies, and all would run to the same replica."""


class Load(NamedTuple):
    """How much a replica has to do, as far as this process knows."""

    used: int
    """Leases of it, and those who wait for one."""
    latency: float | None
    """Seconds that it takes to answer, None where that is not known."""


def pick(
    strategy: Strategy,
    place: str,
    weights: Mapping[str, float],
    load_of: Callable[[str], Load],
    draw: Draw = chance.random,
) -> str:
    """Return one of several names, each with its weight.

    `place` is what takes turns by itself. Loads are asked for only where they matter.
    """
    if len(weights) == 1:
        return next(iter(weights))
    if strategy == "random":
        return drawn(weights, draw)
    if strategy == "least_used":
        return _least_used(place, weights, load_of)
    if strategy == "latency":
        return _quicker_of_two(weights, load_of, draw)
    return rota.pick(place, weights)


def drawn(weights: Mapping[str, float], draw: Draw = chance.random) -> str:
    """Return one at random, each as often as its weight says."""
    left = draw() * sum(weights.values())
    for name, weight in weights.items():
        left -= weight
        if left < 0:
            return name
    return name  # what floats have lost


def _least_used(place: str, weights: Mapping[str, float], load_of: Callable[[str], Load]) -> str:
    # One more is what it comes to; so of two that rest, the heavier one comes first.
    found = {name: (load_of(name).used + 1) / weight for name, weight in weights.items()}
    least = min(found.values())
    # Mostly several have nothing to do: not always the first of these.
    return rota.pick(place, {name: weights[name] for name in weights if found[name] == least})


def _quicker_of_two(
    weights: Mapping[str, float], load_of: Callable[[str], Load], draw: Draw
) -> str:
    # Of two that are drawn, and not of all: else everybody runs to the one that was quickest at
    # the last look, until it is not.
    first = drawn(weights, draw)
    second = drawn({name: weight for name, weight in weights.items() if name != first}, draw)
    one, other = load_of(first), load_of(second)
    if one.latency is None or other.latency is None:
        return second if other.used < one.used else first
    # What comes has to queue behind what is there.
    costs = one.latency * (one.used + 1), other.latency * (other.used + 1)
    return second if costs[0] > CLEARLY * costs[1] else first

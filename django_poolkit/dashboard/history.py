"""The last minutes of a pool in all processes together, and the lines that show them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

STEP: Final = 5.0
"""Seconds between two points: so often the processes take samples."""
SPAN: Final = 600.0
WIDTH: Final = 600
HEIGHT: Final = 100
_SLOTS: Final = int(SPAN / STEP)


class Point(NamedTuple):
    """All processes at one moment."""

    age: float
    """Seconds ago."""
    used: int
    max_size: int
    waiters: int


def together(pools: Iterable[Mapping[str, Any]]) -> list[Point]:
    """Return the sums over the processes, oldest first and now at the end.

    Their samples are of different moments: at each point the newest counts that a process had
    taken by then, if that was lately.
    """
    slots = [_slots(pool) for pool in pools]
    points = []
    for slot in range(_SLOTS, -1, -1):
        there = [each for own in slots if (each := own.get(slot) or own.get(slot + 1))]
        if there:
            sums = (sum(each[place] for each in there) for place in (1, 2, 3))
            points.append(Point(slot * STEP, *sums))
    return points


def _slots(pool: Mapping[str, Any]) -> dict[int, Sequence[Any]]:
    now = (0.0, pool["used"], pool["max_size"], pool["waiters"])
    found: dict[int, Sequence[Any]] = {}
    for sample in (*pool.get("history", ()), now):  # a later one takes the place of an earlier
        found[int(sample[0] // STEP)] = sample
    return found


def line(values: Sequence[tuple[float, float]], top: float) -> str:
    """Return a line through values by their age, as the `points` of SVG. `top` is the height."""
    return " ".join(
        f"{_across(age):.1f},{HEIGHT - min(value / top, 1.0) * HEIGHT:.1f}" for age, value in values
    )


def area(values: Sequence[tuple[float, float]], top: float) -> str:
    """Return the same with the corners below its ends; empty where there is no value."""
    if not values:
        return ""
    first, last = _across(values[0][0]), _across(values[-1][0])
    return f"{first:.1f},{HEIGHT} {line(values, top)} {last:.1f},{HEIGHT}"


def _across(age: float) -> float:
    return WIDTH * (1 - age / SPAN)

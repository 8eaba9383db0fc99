"""Boxes, arrows and sequences, at places that are given: nothing is laid out by itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tests.pictures.svg import page, text

LINE = 17
"""Height of a line of text."""


@dataclass(frozen=True)
class Box:
    """Lines of text in a frame; `x` and `y` are its middle."""

    x: float
    y: float
    width: float
    lines: Sequence[str]
    kind: str = "box"

    @property
    def height(self) -> float:
        """Return how tall it is, by its lines."""
        return LINE * len(self.lines) + 14

    def draw(self) -> Iterator[str]:
        """Yield its SVG."""
        left, top = self.x - self.width / 2, self.y - self.height / 2
        round_ = 16 if self.kind == "end" else 5
        style = "box" if self.kind == "end" else self.kind
        yield (
            f'<rect class="{style}" x="{left:.1f}" y="{top:.1f}" '
            f'width="{self.width}" height="{self.height}" rx="{round_}"/>'
        )
        for number, line in enumerate(self.lines):
            yield text(self.x, top + 20 + number * LINE, line, "", "middle")


@dataclass(frozen=True)
class Arrow:
    """A line with a tip at its last point, and words beside one of its parts."""

    points: Sequence[tuple[float, float]]
    words: str = ""
    at: tuple[float, float] = (0.0, 0.0)
    """Where the words begin; `|` in them begins another line."""
    dashed: bool = False
    anchor: str = "start"

    def draw(self) -> Iterator[str]:
        """Yield its SVG."""
        (x, y), *rest = self.points
        way = f"M{x:.1f} {y:.1f}" + "".join(f"L{x:.1f} {y:.1f}" for x, y in rest)
        dash = ' stroke-dasharray="4 4"' if self.dashed else ""
        yield f'<path class="arrow" d="{way}"{dash}/>'
        yield tip(self.points[-2], self.points[-1])
        for number, line in enumerate(self.words.split("|") if self.words else ()):
            yield text(self.at[0], self.at[1] + number * 15, line, "quiet", self.anchor)


def tip(before: tuple[float, float], end: tuple[float, float]) -> str:
    """Return the head of an arrow that comes from `before` and ends at `end`."""
    dx, dy = end[0] - before[0], end[1] - before[1]
    long = (dx * dx + dy * dy) ** 0.5
    ux, uy = dx / long, dy / long
    back = (end[0] - 8 * ux, end[1] - 8 * uy)
    left = (back[0] - 4 * uy, back[1] + 4 * ux)
    right = (back[0] + 4 * uy, back[1] - 4 * ux)
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in (end, left, right))
    return f'<polygon class="tip" points="{points}"/>'


def picture(width: int, height: int, title: str, parts: Sequence[Box | Arrow]) -> str:
    """Return boxes and arrows as one picture."""
    return page(width, height, title, [line for part in parts for line in part.draw()])


class Message(NamedTuple):
    """What one says to another; to itself, it is something that it does."""

    sender: int
    receiver: int
    words: str
    answer: bool = False


def sequence(title: str, actors: Sequence[str], messages: Sequence[Message], width: int) -> str:
    """Return who says what to whom, from top to bottom."""
    gap = width / len(actors)
    xs = [gap * (number + 0.5) for number in range(len(actors))]
    top, step = 66, 42
    height = top + step * len(messages) + 14
    parts: list[str] = []
    for x, name in zip(xs, actors, strict=True):
        parts.append(f'<path class="grid" d="M{x:.1f} 44V{height - 14}"/>')
        parts += Box(x, 30, gap - 24, [name]).draw()
    for number, message in enumerate(messages):
        y = float(top + step * number + 18)
        start, end = xs[message.sender], xs[message.receiver]
        if start == end:
            points = [(start, y - 8), (start + 26, y - 8), (start + 26, y + 8), (start, y + 8)]
            arrow = Arrow(points, message.words, (start + 34, y + 4))
        else:
            middle = (start + end) / 2
            ends = [(start, y), (end, y)]
            arrow = Arrow(ends, message.words, (middle, y - 7), message.answer, "middle")
        parts += arrow.draw()
    return page(width, height, title, parts)

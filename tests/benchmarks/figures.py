"""What the parts of the program have in common: figures by contestant, and how to read theirs.

Parts print rows of their own. A `Reading` says which of a row's values is a figure, of what, by
whom; from there on all parts look alike.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure: of what, by whom, and its spread over the rounds where that is known."""

    measure: str
    contestant: str
    value: float | None
    """None where there is none: the contestant failed, or gave up."""
    low: float | None = None
    high: float | None = None
    ratio: float | None = None
    """To the contestant that all are compared with, None without one."""


@dataclass(frozen=True, slots=True)
class Table:
    """Figures that may be compared: of one part, in one unit."""

    title: str
    unit: str
    base: str
    """To whom the ratios are; empty without ratios."""
    figures: list[Figure]
    better: str = ""
    """`less` or `more`; empty where neither is better by itself."""
    drawn: bool = True
    """Whether there is a picture of it."""

    @property
    def measures(self) -> list[str]:
        """What was measured, in order."""
        return list(dict.fromkeys(figure.measure for figure in self.figures))

    @property
    def contestants(self) -> list[str]:
        """Who took part, in order."""
        return list(dict.fromkeys(figure.contestant for figure in self.figures))

    def of(self, measure: str) -> list[Figure]:
        """Return the figures of one measure."""
        return [figure for figure in self.figures if figure.measure == measure]

    def as_json(self) -> dict[str, Any]:
        """Return it for a file."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Table:
        """Return what `as_json()` was given."""
        figures = [Figure(**each) for each in values["figures"]]
        return cls(**{**values, "figures": figures})


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Where a part's JSON has the figures of one table."""

    title: str
    unit: str
    key: str = ""
    """Of the row's value; its spread is under the same with `_low` and `_high`, if anywhere."""
    spread: tuple[str, str] | None = None
    """Or under these keys."""
    by: tuple[str, ...] = ("measure",)
    """Keys that name what was measured, together; without any it is the table's title."""
    who: str = "contestant"
    base: str = ""
    at: str = ""
    """Of an object: which of its lists has the rows."""
    where: Row = field(default_factory=dict)
    """Only rows with these values."""
    times: float = 1.0
    """What the value is multiplied by to be in the unit."""
    better: str = ""
    """`less` or `more`, where that is what a contest is about."""
    drawn: bool = True
    """Whether there is to be a picture."""
    lists: tuple[str, ...] = ()
    """Instead of rows: the keys of an object's lists of rounds, each a contestant's."""

    def table(self, found: Any) -> Table:
        """Read a part's JSON."""
        plain = list(self._of_lists(found) if self.lists else self._of_rows(found))
        bases = {each.measure: each.value for each in plain if each.contestant == self.base}
        figures = [
            Figure(
                each.measure,
                each.contestant,
                each.value,
                each.low,
                each.high,
                ratio(each.value, bases.get(each.measure)),
            )
            for each in plain
        ]
        return Table(self.title, self.unit, self.base, figures, self.better, self.drawn)

    def _of_lists(self, found: Row) -> Iterator[Figure]:
        for name in self.lists:
            rounds = found[name]
            yield Figure(self.title, name, statistics.median(rounds), min(rounds), max(rounds))

    def _of_rows(self, found: Any) -> Iterator[Figure]:
        rows: Iterable[Row] = found[self.at] if self.at else found
        for row in rows:
            if any(row.get(key) != value for key, value in self.where.items()):
                continue
            if self.key not in row:
                continue  # a part measures some things of some contestants only
            low, high = self.spread or (f"{self.key}_low", f"{self.key}_high")
            measure = ", ".join(named(key, row[key]) for key in self.by) or self.title
            value, least, most = (self._scaled(row.get(key)) for key in (self.key, low, high))
            yield Figure(measure, row[self.who], value, least, most)

    def _scaled(self, value: float | None) -> float | None:
        return None if value is None or math.isinf(value) else value * self.times


def ratio(value: float | None, base: float | None) -> float | None:
    """Return one figure to another, None where there is no such thing."""
    return value / base if value is not None and base else None


def named(key: str, value: Any) -> str:
    """Return what names a measure as text: a number says what it is of."""
    return f"{key} {value:,}" if isinstance(value, int) else str(value)


def number(value: float | None) -> str:
    """Return a figure for people: three digits that count, more only of large ones."""
    if value is None:
        return "none"
    if value and abs(value) < 0.001:
        return f"{value:.1e}"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:,.{digits}f}"


def spread(figure: Figure) -> str:
    """Return a figure with its spread, for people; alone where there was one round."""
    if figure.low is None or figure.low == figure.high or figure.value is None:
        return number(figure.value)
    return f"{number(figure.value)} ({number(figure.low)}-{number(figure.high)})"


def text(table: Table) -> str:
    """Return a table in columns."""
    lines = [f"{table.title}, {table.unit}" + (f"; x {table.base}" if table.base else "")]
    wide = max((len(name) for name in table.contestants), default=0)
    for measure in table.measures:
        lines.append(f"  {measure}")
        for figure in table.of(measure):
            times = f"{figure.ratio:8.2f} x" if figure.ratio is not None else ""
            lines.append(f"    {figure.contestant:{wide}}  {spread(figure):32}{times}".rstrip())
    return "\n".join(lines)


def summed(values: Sequence[float | None], key: str, digits: int | None = None) -> dict[str, Any]:
    """Return the median of rounds and its spread under `key`, as the rows of parts have it.

    None among them, a contestant that gave up, is worse than any number.
    """
    found = [math.inf if value is None else value for value in values]
    three = statistics.median(found), min(found), max(found)
    names = key, f"{key}_low", f"{key}_high"
    return {
        name: None if math.isinf(value) else value if digits is None else round(value, digits)
        for name, value in zip(names, three, strict=True)
    }

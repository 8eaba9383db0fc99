"""What becomes of an alias of `DATABASES` that moves in, as values.

Nothing but numbers and words of ours is ever shown of a project's settings: all else stays where it
is, and is referred to.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Kept(NamedTuple):
    """A value that stays as the project has it, and is not shown: where it stands in the entry."""

    path: tuple[str, ...]


class Change(NamedTuple):
    """One thing that is another one here."""

    what: str
    was: str
    becomes: str
    why: str


@dataclass(slots=True, kw_only=True)
class Move:
    """What one alias becomes."""

    alias: str
    engine: str
    """As it is."""
    source: str
    """Who pools there, in words."""
    to: str
    pool: dict[str, Any] = field(default_factory=dict)
    """The options of `OPTIONS["pool"]`: numbers, words, and `Kept`."""
    gone: tuple[str, ...] = ()
    """Keys of `OPTIONS` that nobody here takes."""
    gone_above: tuple[str, ...] = ()
    """Keys of the entry itself that nobody here takes."""
    may_be_pooler: bool = False
    """Whether something in the entry speaks of a pooler in between."""
    changes: list[Change] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def change(self, what: str, was: object, becomes: object, why: str = "") -> None:
        """Enter a change. Values that could be a secret are shown by their type."""
        self.changes.append(Change(what, shown(was), shown(becomes), why))


class Left(NamedTuple):
    """An alias that stays what it is."""

    alias: str
    engine: str
    why: str


class Word(str):
    """A text of this table, which may be shown."""

    __slots__ = ()


def shown(value: object) -> str:
    """Return a value as text: a number or a word of ours, of anything else only its type."""
    if isinstance(value, Word) or value is None or isinstance(value, (bool, int, float)):
        return str(value)
    return f"a {type(value).__name__}"

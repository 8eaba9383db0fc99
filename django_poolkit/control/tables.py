"""Tables as text: by rich on a terminal where it is installed, plain and aligned otherwise."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Final, NamedTuple

from django.utils.termcolors import make_style

# By tone: how Django colours it, and how rich does.
_TONES: Final[dict[str, tuple[Callable[[str], str], str]]] = {
    "": (str, ""),
    "head": (make_style(opts=("bold",)), "bold"),
    "good": (make_style(fg="green"), "green"),
    "warn": (make_style(fg="yellow"), "yellow"),
    "bad": (make_style(fg="red", opts=("bold",)), "bold red"),
}
_GAP: Final = "  "


class Cell(NamedTuple):
    """Some text, and whether it is a matter of joy: `good`, `warn`, `bad`, `head` or nothing."""

    text: str
    tone: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table with a line above and some below. Without columns it is those lines alone."""

    title: Cell
    columns: tuple[str, ...] = ()
    """Their names. `>` in front sets one to the right, `~` allows a narrow terminal to fold it."""
    rows: Sequence[Sequence[Cell]] = ()
    notes: Sequence[Cell] = ()


def draw(tables: Sequence[Table], *, color: bool, width: int | None = None) -> str:
    """Return the tables as text, for a terminal of `width` columns or, without, for a pipe."""
    if width is not None and find_spec("rich") is not None:
        return _by_rich(tables, color=color, width=width)
    return "\n".join("".join(f"{line}\n" for line in _plain(table, color)) for table in tables)


def printable(text: str) -> str:
    """Return a line without what would command a terminal: some of it comes from elsewhere."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _plain(table: Table, color: bool) -> list[str]:
    def painted(cell: Cell, text: str) -> str:
        return _TONES[cell.tone][0](text) if color else text

    heads = [Cell(name.lstrip(">~"), "head") for name in table.columns]
    grid = [heads, *table.rows] if heads else []
    widths = [max(len(cell.text) for cell in column) for column in zip(*grid, strict=True)]
    lines = [painted(table.title, table.title.text)]
    for row in grid:
        cells: list[str] = []
        for cell, name, width in zip(row, table.columns, widths, strict=True):
            right, last = name.startswith(">"), len(cells) == len(row) - 1
            text = cell.text.rjust(width) if right else cell.text.ljust(0 if last else width)
            cells.append(painted(cell, text))
        lines.append(_GAP.join(cells).rstrip())
    return lines + [_GAP + painted(note, note.text) for note in table.notes]


def _by_rich(tables: Sequence[Table], *, color: bool, width: int) -> str:
    from rich.console import Console
    from rich.padding import Padding
    from rich.table import Table as RichTable
    from rich.text import Text

    def text(cell: Cell) -> Text:
        return Text(cell.text, style=_TONES[cell.tone][1], overflow="fold")

    out = io.StringIO()
    console = Console(
        file=out,
        width=width,
        no_color=not color,
        color_system="standard" if color else None,
        legacy_windows=False,
    )
    for number, table in enumerate(tables):
        if number:
            console.print()
        console.print(text(table.title))
        if table.columns:
            shown = RichTable(
                box=None, header_style="bold", padding=(0, len(_GAP), 0, 0), pad_edge=False
            )
            for name in table.columns:
                shown.add_column(
                    name.lstrip(">~"),
                    justify="right" if name.startswith(">") else "left",
                    no_wrap=not name.startswith("~"),
                    overflow="fold",
                )
            for row in table.rows:
                shown.add_row(*(text(cell) for cell in row))
            console.print(shown)
        for note in table.notes:
            console.print(Padding(text(note), (0, 0, 0, len(_GAP))))
    return out.getvalue()


def duration(seconds: float) -> str:
    """Return seconds as people say them, with about two digits."""
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.1f} s"

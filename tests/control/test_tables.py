"""Tables as text, plain and by rich."""

from __future__ import annotations

import sys

from rich.text import Text

from django_poolkit.control import tables
from django_poolkit.control.tables import Cell, Table, draw, printable

TABLE = Table(
    title=Cell("Now", "head"),
    columns=("PID", ">SIZE", "~WHERE"),
    rows=[
        [Cell("7"), Cell("12/16", "bad"), Cell("GET shop.views.report")],
        [Cell("total", "head"), Cell("4"), Cell("-")],
    ],
    notes=[Cell("of note", "warn")],
)
PLAIN = """\
Now
PID     SIZE  WHERE
7      12/16  GET shop.views.report
total      4  -
  of note
"""


def test_plain_tables_are_aligned_and_end_no_line_with_spaces():
    assert draw([TABLE], color=False) == PLAIN
    assert draw([TABLE, TABLE], color=False) == f"{PLAIN}\n{PLAIN}"


def test_a_table_without_columns_is_its_lines():
    lines = Table(title=Cell("fine"), notes=[Cell("one"), Cell("two")])
    assert draw([lines], color=False) == "fine\n  one\n  two\n"


def test_colours_change_nothing_but_the_colour():
    for width in (None, 80):
        coloured = draw([TABLE], color=True, width=width)
        assert "\x1b[" in coloured
        assert (
            Text.from_ansi(coloured).plain
            == Text.from_ansi(draw([TABLE], color=False, width=width)).plain
        )


def test_rich_draws_the_same_without_colour():
    drawn = draw([TABLE], color=False, width=80)
    assert "\x1b" not in drawn
    assert [line.rstrip() for line in drawn.splitlines()] == PLAIN.splitlines()


def test_a_narrow_terminal_folds_what_may_be_folded_and_nothing_else():
    lines = [line.rstrip() for line in draw([TABLE], color=False, width=16).splitlines()]
    assert lines[1:6] == [
        "              WH",
        "              ER",
        "PID     SIZE  E",
        "7      12/16  GE",
        "              T",
    ]
    assert max(map(len, lines)) <= 16


def test_rich_does_not_take_texts_for_markup():
    table = Table(
        title=Cell("[bold]a[/bold]"), columns=("~A",), rows=[[Cell("[red]b[/red] :boom:")]]
    )
    drawn = draw([table], color=True, width=80)
    assert "[bold]a[/bold]" in drawn
    assert "[red]b[/red] :boom:" in drawn


def test_without_rich_a_terminal_gets_plain_tables(monkeypatch):
    monkeypatch.setattr(tables, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "rich", None)
    assert draw([TABLE], color=False, width=80) == PLAIN


def test_a_pipe_needs_no_rich(monkeypatch):
    monkeypatch.setitem(sys.modules, "rich", None)
    assert draw([TABLE], color=False) == PLAIN


def test_nothing_commands_the_terminal():
    assert printable("a\x1b[2Jb\r\nc\x07\x9b\u202e d\u00e9") == "a?[2Jb??c??? d\u00e9"

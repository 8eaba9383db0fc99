"""The page of documentation that a run of the program becomes, with its pictures beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.benchmarks.charts import chart
from tests.benchmarks.figures import Figure, Table, number, spread

PICTURES = "performance"
"""The folder beside the page that has them."""


def write_charts(run: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write a picture of each table of a run; return where they are."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for part in run["parts"]:
        for index, values in enumerate(part["tables"]):
            path = folder / picture(part, index)
            path.write_text(chart(Table.from_json(values)))
            written.append(path)
    return written


def picture(part: Mapping[str, Any], index: int) -> str:
    """Return the name of a table's picture."""
    return f"{part['name']}-{index + 1}.svg"


def write_page(run: Mapping[str, Any], page: Path) -> None:
    """Write the page of a run, and its pictures into a folder beside it."""
    write_charts(run, page.parent / PICTURES)
    page.write_text("\n".join(lines(run)) + "\n")


def lines(run: Mapping[str, Any]) -> Iterator[str]:
    """Provide the page, line by line."""
    yield "# Performance"
    yield ""
    yield "Written by `python3 -m tests.benchmarks --page` from one run, and not edited by hand."
    yield "[Benchmarks](../reference/benchmarks.md) says what each program does, its `--help` how"
    yield "to read its table."
    yield ""
    yield from _machine(run)
    yield "## How to read it"
    yield ""
    yield "Of several rounds, in which the contestants took turns, a cell has the median and, in"
    yield "brackets, the lowest and the highest; then the ratio to the contestant that is named"
    yield "above the table. `none`: it failed, or gave up. Compare within a row; a difference that"
    yield "is smaller than the spread says nothing."
    yield ""
    for part in run["parts"]:
        yield from _part(part)


def _machine(run: Mapping[str, Any]) -> Iterator[str]:
    about = run["machine"]
    packages = ", ".join(f"{name} {number}" for name, number in about["packages"].items())
    begun, ended = run["load"]
    yield "## On what"
    yield ""
    yield "| | |"
    yield "|---|---|"
    yield f"| day | {run['day']}, {run['form']} form, {run['seconds'] / 60:.0f} minutes |"
    yield f"| processor | {_plain(about['cpu'])}, {about['cores']} cores usable |"
    yield f"| memory | {about['memory_gib']} GiB |"
    yield f"| system | {_plain(about['system'])} |"
    yield f"| versions | {about['python']}, PostgreSQL {about['postgresql']}, {packages} |"
    yield f"| other work | load average {begun} as it began, {ended} as it ended |"
    yield ""
    yield "Server, clients and contestants share these cores."
    yield ""


def _part(part: Mapping[str, Any]) -> Iterator[str]:
    yield f"## {part['title']}"
    yield ""
    yield f"{part['sentence']} (`{part['command']}`)"
    yield ""
    if part["status"]:
        yield f"**It ended with status {part['status']}**: what that means, its `--help` says."
        yield ""
    for index, values in enumerate(part["tables"]):
        table = Table.from_json(values)
        base = f"; times {table.base}" if table.base else ""
        yield f"### {part['title']}: {table.title}"
        yield ""
        yield f"In {table.unit}{base}."
        yield ""
        yield from _table(table)
        yield ""
        yield f"![{table.title}]({PICTURES}/{picture(part, index)})"
        yield ""


def _table(table: Table) -> Iterator[str]:
    names = table.contestants
    yield "| | " + " | ".join(map(_plain, names)) + " |"
    yield "|---|" + "---|" * len(names)
    for measure in table.measures:
        by = {figure.contestant: figure for figure in table.of(measure)}
        cells = (_cell(by.get(name)) for name in names)
        yield f"| {_plain(measure)} | " + " | ".join(cells) + " |"


def _cell(figure: Figure | None) -> str:
    if figure is None:
        return ""
    return spread(figure) + (f"; {number(figure.ratio)} ×" if figure.ratio is not None else "")  # noqa: RUF001


def _plain(words: str) -> str:
    """Return text that means nothing else in Markdown."""
    return words.replace("|", "\\|").replace("<", "&lt;").replace("_", "\\_").replace("*", "\\*")

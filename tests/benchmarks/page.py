"""The page of documentation that a run of the program becomes, with its pictures beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.benchmarks.charts import chart
from tests.benchmarks.figures import Figure, Table, number, spread
from tests.benchmarks.parts import BY_NAME
from tests.benchmarks.reach import verdicts

PICTURES = "performance"
"""The folder beside the page that has them."""
NOTES = Path(__file__).with_name("notes.md")
"""What people have written for the page: it stands there as it is, whatever a run says."""
WHO = (
    ("no pool", "Django as it comes: a connection for each request"),
    ("`CONN_MAX_AGE=None`", "a connection for each thread, held for ever: no pool, and no price"),
    ("Django's pool", '`OPTIONS["pool"]` of Django\'s own engine; also with `CONN_HEALTH_CHECKS`'),
    ("django-db-connection-pool", "on SQLAlchemy's pool; asks each connection first"),
    ("django-pg-real-pool", "on Django's pool; gives back after each statement"),
    ("django-async-backend", "another ORM, asynchronous, on psycopg's `AsyncConnectionPool`"),
    ("PgBouncer, plain Django", "transaction mode, where it is installed"),
    ("psycopg_pool, SQLAlchemy QueuePool, asyncpg's pool", "by themselves, without Django"),
    ("psycopg, held; psycopg or asyncpg, no ORM", "the driver alone: the floor, nobody's peer"),
    ("ours, session; ours, transaction", "django_poolkit in its two modes; also with `prepare`"),
    ("ours, threads; ours, on the loop", "in async views: on Django's threads, or `ASYNC_ORM`"),
)
"""The contestants, for who reads nothing else."""


def write_charts(run: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write a picture of each table of a run; return where they are."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for part in run["parts"]:
        for index, values in enumerate(part["tables"]):
            table = Table.from_json(values)
            if table.drawn:
                path = folder / picture(part, index)
                path.write_text(chart(table))
                written.append(path)
    return written


def picture(part: Mapping[str, Any], index: int) -> str:
    """Return the name of a table's picture."""
    return f"{part['name']}-{index + 1}.svg"


def write_page(run: Mapping[str, Any], page: Path) -> None:
    """Write the page of a run, and its pictures into a folder beside it."""
    for old in (page.parent / PICTURES).glob("*.svg"):  # the folder is this page's own
        old.unlink()
    write_charts(run, page.parent / PICTURES)
    page.write_text("\n".join(lines(run)) + "\n")


def lines(run: Mapping[str, Any]) -> Iterator[str]:
    """Provide the page, line by line."""
    yield "# Performance"
    yield ""
    runs = run.get("runs", 1)
    source = "one run" if runs == 1 else f"{runs} runs on one machine"
    yield f"Written by `python3 -m tests.benchmarks --page` from {source}, and not edited by hand."
    yield "[Benchmarks](../reference/benchmarks.md) says what each program does, its `--help` how"
    yield "to read its table."
    yield ""
    yield from _machine(run)
    yield "## What is compared"
    yield ""
    yield "| | |"
    yield "|---|---|"
    yield from (f"| {name} | {what} |" for name, what in WHO)
    yield ""
    yield "## How to read it"
    yield ""
    yield "Of several rounds, in which the contestants took turns, a cell has the median and, in"
    yield "brackets, the lowest and the highest; then the ratio to the contestant that is named"
    yield "above the table. `none`: it failed, or gave up. Compare within a measure; a difference"
    yield "that is smaller than the spread says nothing."
    yield ""
    yield from _reach(run)
    if NOTES.is_file():
        yield from NOTES.read_text().strip().splitlines()
        yield ""
    for part in run["parts"]:
        yield from _part(part)
    for name in run.get("left_out", ()):
        yield f"## {BY_NAME[name].title}"
        yield ""
        yield f"{BY_NAME[name].sentence} It was left out: there was no time for it."
        yield ""


def _reach(run: Mapping[str, Any]) -> Iterator[str]:
    yield "## What was to be reached"
    yield ""
    yield "Ratios are ours to the named one, of one run. Two figures less than a twentieth apart"
    yield "are level. Where it says no, [the reason](#what-falls-short-and-why) stands below."
    yield ""
    yield "| | measured | reached |"
    yield "|---|---|---|"
    for each in verdicts(run):
        yield f"| {_marked(each.promise)} | {_plain(each.measured)} | {each.reached} |"
    yield ""


def _machine(run: Mapping[str, Any]) -> Iterator[str]:
    about = run["machine"]
    packages = ", ".join(f"{name} {number}" for name, number in about["packages"].items())
    begun, ended = run["load"]
    load = f"{begun} as it began, {ended} as it ended"
    if "runs" in run:
        load = f"{begun} at the least as one began or ended, {ended} at the most"
    yield "## On what"
    yield ""
    yield "| | |"
    yield "|---|---|"
    yield f"| day | {run['day']}, {run['form']} form, {run['seconds'] / 60:.0f} minutes |"
    yield f"| processor | {_plain(about['cpu'])}, {about['cores']} cores usable |"
    yield f"| memory | {about['memory_gib']} GiB |"
    yield f"| system | {_plain(about['system'])} |"
    yield f"| versions | {about['python']}, PostgreSQL {about['postgresql']}, {packages} |"
    yield f"| other work | load average {load} |"
    yield ""
    yield "Server, clients and contestants share these cores."
    yield ""


def _part(part: Mapping[str, Any]) -> Iterator[str]:
    yield f"## {part['title']}"
    yield ""
    yield f"{part['sentence']} (`{part['command']}`)"
    yield ""
    if part["status"]:
        why = part.get("why") or "what that means, its `--help` says."
        yield f"**It ended with status {part['status']}**: {why}"
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
        if table.drawn:
            yield f"![{table.title}]({PICTURES}/{picture(part, index)})"
            yield ""


def _table(table: Table) -> Iterator[str]:
    """Provide a table that is rather long than wide."""
    if len(table.contestants) > len(table.measures):
        yield from _upright(table)
        return
    names = table.contestants
    yield "| | " + " | ".join(map(_plain, names)) + " |"
    yield "|---|" + "---|" * len(names)
    for measure in table.measures:
        by = {figure.contestant: figure for figure in table.of(measure)}
        cells = (_cell(by.get(name)) for name in names)
        yield f"| {_plain(measure)} | " + " | ".join(cells) + " |"


def _upright(table: Table) -> Iterator[str]:
    yield "| | " + " | ".join(map(_plain, table.measures)) + " |"
    yield "|---|" + "---|" * len(table.measures)
    for name in table.contestants:
        by = {figure.measure: figure for figure in table.figures if figure.contestant == name}
        cells = (_cell(by.get(measure)) for measure in table.measures)
        yield f"| {_plain(name)} | " + " | ".join(cells) + " |"


def _cell(figure: Figure | None) -> str:
    if figure is None:
        return ""
    return spread(figure) + (f"; {number(figure.ratio)} ×" if figure.ratio is not None else "")  # noqa: RUF001


def _marked(words: str) -> str:
    """Return text of which only the code in it is marked."""
    code = words.split("`")
    code[::2] = map(_plain, code[::2])
    return "`".join(code)


def _plain(words: str) -> str:
    """Return text that means nothing else in Markdown."""
    return words.replace("|", "\\|").replace("<", "&lt;").replace("_", "\\_").replace("*", "\\*")

"""Read the documentation: its snippets, commands, links and tables, and run what can be run.

A page's Python snippets run in order in one namespace, against the test server. In it are
`primary` (the server, a `Node`) and whatever the page's comments set up. Comments of HTML, which
a reader does not see, speak to the tests:

`<!-- setup: ... -->`  Python that runs at this place of the page.
`<!-- output -->`      in front of a text block: what the last snippet printed. Numbers and folders
                       may differ; behind `<!-- output: exact -->` nothing may.

A snippet that sets `DATABASES` is checked as settings, and connected by them, to the test server.
Functions called `test_...` are called, with pytest's fixtures by the names of their parameters.
"""

from __future__ import annotations

import contextlib
import contextvars
import inspect
import io
import re
import shlex
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import psycopg_pool
from django.apps import AppConfig
from django.db import connections
from django.db.utils import ConnectionHandler
from django.utils.module_loading import import_string

from django_poolkit.conf.databases import ENGINES, credentials_of, pool_config
from django_poolkit.conf.hosts import hosts_of
from django_poolkit.testing import Node

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
INDEX = DOCS / "index.md"

_COMMENT = re.compile(r"^<!--\s*(setup|output)(?::|\b)(.*?)-->\s*$", re.DOTALL)
_FENCE = re.compile(r"^(\s*)(`{3,})\s*([\w+-]*)\s*$")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+\s+(.*?)\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block, or a comment for the tests (`setup`)."""

    page: Path
    line: int
    language: str
    text: str
    output: str = ""
    """`output` or `exact` for what a snippet printed, else empty."""


def pages() -> list[Path]:
    """Return every page: the README, and all below docs/."""
    return [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]


def name_of(page: Path) -> str:
    """Return the path of a page as people say it."""
    return page.relative_to(ROOT).as_posix() if page.is_relative_to(ROOT) else page.name


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page and the comments for the tests, in order.

    Raises ValueError for a fence that is not closed.
    """
    found: list[Block] = []
    lines = iter(enumerate(page.read_text().splitlines(), start=1))
    output = ""
    for number, line in lines:
        if line.startswith("<!--"):
            comment = _comment(line, lines)
            if match := _COMMENT.match(comment):
                output = (match[2].strip() or "output") if match[1] == "output" else ""
                if match[1] == "setup":
                    found.append(Block(page, number, "setup", textwrap.dedent(match[2])))
        elif match := _FENCE.match(line):
            text = "\n".join(_until(match[2], lines, page, number))
            block = Block(page, number + 1, match[3], textwrap.dedent(text), output)
            found.append(block)
            output = ""
    return found


def _comment(line: str, lines: Iterator[tuple[int, str]]) -> str:
    parts = [line]
    while "-->" not in parts[-1]:
        parts.append(next(lines)[1])
    return "\n".join(parts)


def _until(fence: str, lines: Iterator[tuple[int, str]], page: Path, start: int) -> Iterator[str]:
    for _, line in lines:
        if line.strip() == fence:
            return
        yield line
    raise ValueError(f"{name_of(page)}:{start}: this fence is not closed")


def count_python(page: Path) -> int:
    """Count the Python snippets of a page by another way than `blocks()`."""
    return len(re.findall(r"^\s*```\s*py", page.read_text(), re.MULTILINE))


class Runner:
    """Runs the snippets of one page."""

    def __init__(self, primary: Node, fixture: Callable[[str], Any]) -> None:
        self.namespace: dict[str, Any] = {"__name__": "docs", "primary": primary}
        self.ran = 0
        self._primary = primary
        self._fixture = fixture
        self.printed = ""
        # Of its own: what ran before may have written, and then reads the primary for a while.
        self._context = contextvars.Context()

    def run(self, block: Block) -> None:
        """Run one block, whatever it is. An error names the line of the page."""
        if block.language in ("setup", "python"):
            before = dict(self.namespace)
            # Empty lines in front, so that tracebacks show the line of the page.
            source = "\n" * (block.line - 1) + block.text
            code = compile(source, str(block.page), "exec")
            with contextlib.redirect_stdout(io.StringIO()) as out:
                self._context.run(exec, code, self.namespace)
            new = {
                key: value
                for key, value in self.namespace.items()
                if key not in before or before[key] is not value
            }
            if block.language == "python":
                self.ran += 1
                self.printed = out.getvalue()
                self._look_at(new)
        elif block.output:
            as_shown = str.strip if block.output == "exact" else normal
            assert as_shown(block.text) == as_shown(self.printed), (
                f"{name_of(block.page)}:{block.line}: printed was\n{self.printed}"
            )

    def _look_at(self, new: Mapping[str, Any]) -> None:
        if "DATABASES" in new:
            verify_databases(new["DATABASES"], self._primary)
        for entry in new.get("MIDDLEWARE", ()):
            assert entry is ... or import_string(entry)
        for entry in new.get("INSTALLED_APPS", ()):
            assert entry is ... or AppConfig.create(entry)
        for key, value in new.items():
            if key.startswith("test_") and inspect.isfunction(value):
                value(*map(self._fixture, inspect.signature(value).parameters))

    def close(self) -> None:
        """Close what the snippets left open."""
        for value in self.namespace.values():
            if isinstance(value, (psycopg.Connection, psycopg_pool.ConnectionPool)):
                value.close()


def use_pool(**options: Any) -> None:
    """Give the alias `default` these pool options, and the default size of the tests."""
    connections["default"].close()
    connections.settings["default"]["OPTIONS"]["pool"] = {"max_size": 8, **options}


def normal(text: str) -> str:
    """Return a printed text without what differs from run to run."""
    text = re.sub(r"[\w./~-]*/(?=[\w.-]+)", "", text)
    return re.sub(r"\d+(\.\d+)?", "0", text).strip()


def verify_databases(databases: Mapping[str, Any], primary: Node) -> None:
    """Check an example of `DATABASES` as at start, then connect by it, to the test server."""
    real = deepcopy({alias: dict(entry) for alias, entry in databases.items()})
    for alias, entry in real.items():
        if entry["ENGINE"] not in ENGINES:
            continue
        pool_config(alias, entry)
        address = primary.django_settings("postgres")
        if hosts_of(alias, entry) is not None:
            del entry["OPTIONS"]["hosts"]
        if callable(entry.get("PASSWORD")) or credentials_of(entry) is not None:
            del address["PASSWORD"]  # a function of the page's, which has to bring it
        entry.update(address)
    handler = ConnectionHandler(real)
    for alias, entry in real.items():
        if entry["ENGINE"] in ENGINES:
            connection: Any = handler[alias]
            connection.ensure_connection()
            connection.close()
            connection.close_pool()


# -- commands


def commands(block: Block) -> Iterator[list[str]]:
    """Return the commands of a shell block, as words. In a console, those behind a `$`."""
    lines = block.text.replace("\\\n", " ").splitlines()
    prompted = [line[2:] for line in lines if line.startswith("$ ")]
    for line in prompted or lines:
        words = shlex.split(line, comments=True)
        while words and re.fullmatch(r"\w+=.*", words[0]):
            del words[0]
        if words:
            yield words


# -- links


def prose(page: Path) -> str:
    """Return a page without its blocks."""
    fenced = r"^[ \t]*```.*?^[ \t]*```[ \t]*$"
    return re.sub(fenced, "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def links(page: Path) -> list[tuple[Path, str]]:
    """Return the links of a page into the checkout: the file, and the heading or ''."""
    found = []
    text = prose(page)
    for target in _LINK.findall(text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, heading = target.partition("#")
        found.append(((page.parent / path).resolve() if path else page, heading))
    return found


def headings(page: Path) -> set[str]:
    """Return the headings of a page as they stand in links."""
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in _HEADING.findall(prose(page))
    }


def reachable(start: Path) -> set[Path]:
    """Return the pages to which links lead from `start`."""
    seen: set[Path] = set()
    left = [start]
    while left:
        page = left.pop()
        if page in seen or not page.is_file():
            continue
        seen.add(page)
        left += [target for target, _ in links(page) if target.suffix == ".md"]
    return seen


# -- names


def names(found: Iterable[Path]) -> set[str]:
    """Return the words that stand as code on some pages: in line, or in a block."""
    texts = [text for page in found for text in re.findall(r"`([^`]+)`", prose(page))]
    texts += [block.text for page in found for block in blocks(page) if block.language != "setup"]
    return {word for text in texts for word in re.findall(r"\w+", text)}


def reference() -> list[Path]:
    """Return the pages of the reference."""
    return sorted((DOCS / "reference").glob("*.md"))

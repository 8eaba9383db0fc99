"""Every name that a user can meet stands in the documentation."""

from __future__ import annotations

import argparse
import ast
import builtins
import configparser
import dataclasses
import importlib
import inspect
import pkgutil
import re
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from django.core.management import get_commands, load_command_class

from django_poolkit import conf
from django_poolkit.metrics.families import FAMILIES
from django_poolkit.signals import SIGNALS
from django_poolkit.testing import Node
from tests import public_api
from tests.checks.test_reference import ids as check_ids
from tests.docs_support import DOCS, ROOT, blocks, name_of, names, pages, reference
from tests.test_architecture import modules, tree_of

REFERENCE = names(reference())


# -- public names

# Names of modules' own, and those that Django asks for.
UNDOCUMENTED = {
    "django_poolkit.asgi.KEY", "django_poolkit.wsgi.KEY", "django_poolkit.middleware.KEY",
    "django_poolkit.wsgi.STATUS_LINE", "django_poolkit.wsgi.TYPE_CHECKING",
    "django_poolkit.wsgi.responses",
    "django_poolkit.asgi.Poolkit.websocket",
    "django_poolkit.middleware.PoolkitMiddleware.async_capable",
    "django_poolkit.middleware.PoolkitMiddleware.process_exception",
    "django_poolkit.middleware.PoolkitMiddleware.sync_capable",
    "django_poolkit.lifespan.Declared.manager", "django_poolkit.lifespan.Resource.manager",
}  # fmt: skip
# `scope()` and a request make one; the router asks it.
UNDOCUMENTED |= {
    f"django_poolkit.routing.Scope.{name}"
    for name in (
        "behind", "draw", "fallen", "floors", "place", "placed", "raise_floor", "settled", "strays",
        "unplaced", "unsafe",
    )
}  # fmt: skip


def public_names() -> dict[str, str]:
    """Return each public name, and each member, by its path."""
    lines = public_api.SNAPSHOT.read_text().splitlines()
    paths = [line.partition("(")[0] for line in lines]
    return {path: path.rpartition(".")[2] for path in paths}


def test_every_public_name_is_in_the_reference() -> None:
    missing = {path for path, name in public_names().items() if name not in REFERENCE}
    assert missing == UNDOCUMENTED


# -- errors


# Caught by the part that raises them: nobody else meets them.
INTERNAL = {
    "AdviceError",  # a command's, which says it in its own words
    "BadArguments", "ProtocolError",  # of control's requests
    "DirectoryRefused",  # a warning in the log
    "Fenced",  # a connect that is tried again
    "GoesElsewhere",  # an alias of several hosts goes to the next
    "NamesMissing",  # a system check says it
    "NoThread",  # a RuntimeError, which says what gevent asks for
    "Unparsed",  # a text counts as one that leaves something behind
}  # fmt: skip


def errors() -> set[str]:
    """Return the exceptions and warnings of the package without an underscore, as they are read."""
    bases: dict[str, set[str]] = {}
    for path in modules():
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ClassDef):  # some names are those of several classes
                above = {ast.unparse(base).rpartition(".")[2] for base in node.bases}
                bases.setdefault(node.name, set()).update(above)
    found = {name for name in bases if name.endswith(("Error", "Warning", "Exception"))}
    found |= {name for name, value in vars(builtins).items() if _is_error(value)}
    known = 0
    while known < len(found):
        known = len(found)
        found |= {name for name, above in bases.items() if above & found or _has_an_error(above)}
    return {name for name in found & bases.keys() if not name.startswith("_")}


def _is_error(value: object) -> bool:
    return inspect.isclass(value) and issubclass(value, BaseException)


def _has_an_error(bases: set[str]) -> bool:
    return any(base.endswith(("Error", "Warning")) for base in bases)


def test_every_error_is_in_the_reference() -> None:
    assert {"PoolTimeout", "LockOnReplica", "StaleWriteWarning", "ClusterTimeout"} <= errors()
    assert errors() - REFERENCE == INTERNAL


# -- settings


def config_classes() -> list[type[Any]]:
    found: dict[str, type[Any]] = {}
    for module in pkgutil.iter_modules(conf.__path__):
        for value in vars(importlib.import_module(f"{conf.__name__}.{module.name}")).values():
            if inspect.isclass(value) and value.__name__.endswith("Config"):
                found[value.__name__] = value
    return [found[name] for name in sorted(found)]


# Fields that are put together from keys which have names of their own.
PUT_TOGETHER = {"mark", "guards", "reset_callback", "reset_policy"}


@pytest.mark.parametrize("kind", config_classes(), ids=lambda kind: kind.__name__)
def test_every_key_of_the_settings_is_in_the_reference(kind: type[Any]) -> None:
    keys = {field.name for field in dataclasses.fields(kind)} - PUT_TOGETHER
    assert not {key for key in keys if not {key, key.upper()} & REFERENCE}


# -- commands


def commands() -> list[str]:
    return sorted(name for name, app in get_commands().items() if app == "django_poolkit")


def options(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                yield name
                yield from options(inner)
        yield from (word for word in action.option_strings if word.startswith("--"))


DJANGOS = {
    "--help", "--version", "--verbosity", "--settings", "--pythonpath", "--traceback",
    "--no-color", "--force-color", "--skip-checks",
}  # fmt: skip


PAGES = {"devcluster": "testing"}
"""Where a command is described that has no page of its own."""


@pytest.mark.parametrize("name", commands())
def test_every_option_of_a_command_is_in_the_reference(name: str) -> None:
    assert len(commands()) >= 5
    text = (DOCS / "reference" / f"{PAGES.get(name, name)}.md").read_text()
    parser = load_command_class("django_poolkit", name).create_parser("manage.py", name)
    missing = {word for word in options(parser) if not re.search(rf"`{word}\b", text)}
    assert missing <= DJANGOS


# -- signals, metrics, checks


def test_every_signal_metric_and_check_is_in_the_reference() -> None:
    assert set(SIGNALS) <= names([DOCS / "reference/signals.md"])
    assert {family.name for family in FAMILIES} <= names([DOCS / "reference/metrics.md"])
    text = (DOCS / "reference/checks.md").read_text()
    assert check_ids() <= set(re.findall(r"poolkit\.[EWI]\d{3}", text))


# -- what no test runs


def test_every_page_is_in_the_navigation() -> None:
    text = (ROOT / "mkdocs.yml").read_text().split("\nnav:\n")[1]
    listed = re.findall(r"- ([\w/-]+\.md)$", text, re.MULTILINE)
    assert len(set(listed)) == len(listed)
    assert set(listed) == {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}


NOT_RUN = {
    "ini": "a file of another program; that of PgBouncer is run by tests/pgbouncer/test_page.py",
    "sql": "for an operator's hand; parsed by the server below",
    "toml": "for a project's own file; parsed below",
    "text": "what something prints: held against it where `<!-- output -->` stands above",
}
RUN = {"python", "setup", "console", "bash"}
"""Python is run, and the commands and options of the others are looked up."""


def test_a_block_is_run_or_there_is_a_reason() -> None:
    for page in pages():
        for block in blocks(page):
            assert block.language in RUN | NOT_RUN.keys(), f"{name_of(page)}:{block.line}"


def test_files_of_others_can_be_read() -> None:
    found = [block for page in pages() for block in blocks(page)]
    for block in found:
        if block.language == "toml":
            assert tomllib.loads(block.text)
        elif block.language == "ini":
            parser = configparser.ConfigParser(strict=False, interpolation=None)
            text = block.text if "[" in block.text else f"[any]\n{block.text}"
            parser.read_string(text)
            assert parser.sections()


def test_statements_of_pages_are_those_of_postgresql(primary: Node) -> None:
    statements = [
        (block, statement.strip())
        for page in pages()
        for block in blocks(page)
        if block.language == "sql"
        for statement in block.text.split(";")
        if statement.strip()
    ]
    assert len(statements) > 5
    with primary.connect(autocommit=False) as connection:
        for block, statement in statements:
            with pytest.raises(Undone), connection.transaction():
                with suppress(psycopg.errors.UndefinedObject):  # a role of the reader's
                    connection.execute(statement)
                raise Undone
            assert connection.info.transaction_status.name in {"IDLE", "INTRANS"}, block


class Undone(Exception):
    """Ends a transaction of which nothing is to stay."""


# -- names that are not there any more

TOLD = "\n".join(page.read_text() for page in pages())
LOGGERS = set(re.findall(r'getLogger\("([\w.]+)"\)', "".join(p.read_text() for p in modules())))


def resolves(path: str) -> bool:
    """Return whether a dotted path leads to a module of ours, or into one."""
    parts = path.split(".")
    for length in range(len(parts), 0, -1):
        file = ROOT.joinpath(*parts[:length])
        if file.is_dir() or file.with_suffix(".py").exists():
            left = parts[length:]
            source = file / "__init__.py" if file.is_dir() else file.with_suffix(".py")
            return not left or re.search(rf"\b{left[0]}\b", source.read_text()) is not None
    return False


def test_every_path_that_pages_name_is_there() -> None:
    paths = set(re.findall(r"(?<![\w/.])(?:django_poolkit|example_project|tests)(?:\.\w+)+", TOLD))
    assert len(paths) > 60
    assert not {path for path in paths if not resolves(path)} - LOGGERS
    files = set(
        re.findall(r"(?<![\w/.])(?:django_poolkit|example_project|tests)/[\w/]+\.\w+", TOLD)
    )
    assert not {file for file in files if not (ROOT / file).exists()}


def test_every_metric_check_and_section_that_pages_name_is_there() -> None:
    assert set(re.findall(r"poolkit\.[EWI]\d{3}", TOLD)) <= check_ids()
    metrics = {family.name for family in FAMILIES}
    metrics |= {f"{name}_{end}" for name in metrics for end in ("bucket", "sum", "count")}
    named = set(re.findall(r"\bpoolkit_\w+(?:_total|_seconds|_ratio|_bytes|_max|_min)\b", TOLD))
    assert named <= metrics
    sections = set(re.findall(r'POOLKIT\["(\w+)"\]', TOLD))
    assert sections <= names([DOCS / "reference/settings.md"])


def test_every_alert_has_an_answer() -> None:
    alerts = re.findall(r"- alert: (\w+)", (DOCS / "monitoring/alerts.yml").read_text())
    page = (DOCS / "how-to/answer-an-alert.md").read_text()
    assert [*re.findall(r"^## (Poolkit\w+)$", page, re.MULTILINE)] == alerts


def test_every_source_of_the_comparison_is_used_and_there() -> None:
    text = (DOCS / "explanation/comparison.md").read_text()
    claims, sources = text.split("\n## Sources\n")
    listed = [int(number) for number in re.findall(r"^(\d+)\. ", sources, re.MULTILINE)]
    assert listed == list(range(1, len(listed) + 1))
    assert {int(number) for number in re.findall(r"\[(\d+)\](?!\()", claims)} == set(listed)
    for source in re.split(r"^\d+\. ", sources, flags=re.MULTILINE)[1:]:
        assert re.search(r"https://|\d+\.\d+", source), source

"""The documentation is true: snippets run, tables say what the code says, links lead somewhere."""

from __future__ import annotations

import argparse
import ast
import importlib.util
import re
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.management import get_commands, load_command_class
from django.db import connections
from django.db.backends.postgresql.base import DatabaseWrapper as DjangosWrapper

import django_poolkit
from django_poolkit import registry
from django_poolkit.backends.postgresql.base import PooledDatabaseWrapperMixin
from django_poolkit.pools import errors
from django_poolkit.pools.config import LIBPQ_GUARDS, SERVER_GUARDS, PoolConfig
from django_poolkit.pools.lease import Lease
from django_poolkit.pools.observe import Observation, Observations
from django_poolkit.pools.postgres import ConnectionPool
from django_poolkit.pools.postgres.connection import REPORTED
from django_poolkit.pools.session_state import Residue
from django_poolkit.pools.stats import HistogramStats, LeaseStats, PoolStats
from django_poolkit.signals import SIGNALS
from django_poolkit.testing import Node
from tests import docs_support as docs
from tests import public_api
from tests.docs_support import DOCS, INDEX, ROOT

PAGES = docs.pages()
# What a block may be. One that cannot run has to say that it is text.
LANGUAGES = {"python", "console", "bash", "text", "toml", "sql", "ini", "html", "setup"}
# Commands of others, which are taken as they are.
FOREIGN = {"pip", "curl", "psql", "pytest", "mkdir", "cd", "git", "kill", "mutmut"}
FOREIGN |= {"gunicorn", "uvicorn", "granian", "hypercorn", "daphne", "uwsgi", "celery"}


NEWCOMERS = ("README.md", "docs/tutorial/first-site.md", "docs/how-to/move-from-djangos-pool.md")
# What a newcomer follows runs on every pair; what is written in the other pages, on one.
FOLLOWED = [
    pytest.param(page, marks=pytest.mark.core if docs.name_of(page) in NEWCOMERS else ())
    for page in PAGES
]


def page_named(path: str) -> Path:
    return DOCS / path


def ids(page: Path) -> str:
    return docs.name_of(page)


# -- snippets


@pytest.fixture
def clean_pools() -> Iterator[None]:
    """Have a page begin and end with pools of its own."""
    connections.close_all()
    registry.pools.close_all()
    options = connections.settings["default"]["OPTIONS"]
    before = {**options["pool"]}
    yield
    connections.close_all()
    options["pool"] = before
    leased = sum(pool.stats().used for pool in registry.pools)
    registry.pools.close_all()
    assert leased == 0


@pytest.fixture
def database(primary: Node) -> Iterator[str]:
    """An empty database, dropped after the test."""
    primary.create_database("documentation")
    yield "documentation"
    primary.drop_database("documentation")


@pytest.mark.parametrize("page", FOLLOWED, ids=ids)
@pytest.mark.usefixtures("transactional_db", "clean_pools")
def test_the_snippets_of_a_page_run(
    page: Path, primary: Node, request: pytest.FixtureRequest
) -> None:
    if not primary.running:  # an earlier page that failed half way
        primary.start()

    def fixture(name: str) -> Any:
        # Those of the plugin, which need not be installed here, and start no second cluster.
        if name == "poolkit_primary":
            return primary
        return request.getfixturevalue("database" if name == "poolkit_database" else name)

    runner = docs.Runner(primary, fixture)
    try:
        for block in docs.blocks(page):
            runner.run(block)
    finally:
        runner.close()
        if not primary.running:
            primary.start()
    assert runner.ran == docs.count_python(page)
    assert not any(signal.receivers for signal in SIGNALS.values()), "left for the next page"


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_every_block_says_what_it_is(page: Path) -> None:
    for block in docs.blocks(page):
        assert block.language in LANGUAGES, f"{ids(page)}:{block.line}: {block.language!r}"


def test_a_snippet_that_prints_something_else_is_found(tmp_path: Path, primary: Node) -> None:
    page = tmp_path / "page.md"
    page.write_text("```python\nprint('two')\n```\n\n<!-- output -->\n```text\nthree\n```\n")
    runner = docs.Runner(primary, pytest.fail)
    code, output = docs.blocks(page)
    runner.run(code)
    assert (runner.ran, docs.count_python(page)) == (1, 1)
    with pytest.raises(AssertionError, match=r"page\.md:7: printed was\ntwo"):
        runner.run(output)


def test_a_number_counts_where_a_page_says_so(tmp_path: Path, primary: Node) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```python\nprint(2)\n```\n\n<!-- output -->\n```text\n3\n```\n"
        "<!-- output: exact -->\n```text\n3\n```\n"
    )
    runner = docs.Runner(primary, pytest.fail)
    code, loose, exact = docs.blocks(page)
    runner.run(code)
    runner.run(loose)
    with pytest.raises(AssertionError, match=r"page\.md:11: printed was\n2"):
        runner.run(exact)


def test_settings_that_cannot_be_honoured_are_found(tmp_path: Path, primary: Node) -> None:
    page = tmp_path / "page.md"
    entry = {"ENGINE": "django_poolkit.backends.postgresql", "OPTIONS": {"pool": {"sise": 1}}}
    page.write_text(f"```python\nDATABASES = {{'default': {entry}}}\n```\n")
    with pytest.raises(ImproperlyConfigured, match="sise"):
        docs.Runner(primary, pytest.fail).run(*docs.blocks(page))


@pytest.mark.parametrize(
    "command",
    ["manage.py nonsense", "manage.py migrate --nonsense", "python -m nonsense",
     "python3 -m example_project --nonsense", "python3 -m tests.django_suite --nonsense",
     "pip install django-poolkit[nonsense]", "nonsense"],
)  # fmt: skip
def test_a_command_that_does_not_exist_is_found(command: str) -> None:
    with pytest.raises(AssertionError):
        verify_command(command.split())


# -- commands


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_the_commands_of_a_page_exist(page: Path) -> None:
    for block in docs.blocks(page):
        if block.language in ("console", "bash") or block.text.startswith("$ "):
            for words in docs.commands(block):
                verify_command(words)


def verify_command(words: list[str]) -> None:
    """Fail for a command, or an option of it, that does not exist."""
    first, *rest = words
    first = first.removeprefix(".venv/bin/")
    if first in ("python", "python3", "./manage.py", "manage.py", "example_project/manage.py"):
        if first.startswith("python") and rest[0] == "-m":
            verify_module(rest[1], rest[2:])
            return
        if first.startswith("python"):
            first, *rest = rest
        assert first.endswith("manage.py"), words
        verify_management(rest[0], rest[1:])
    elif first == "django-admin":
        verify_management(rest[0], rest[1:])
    elif first == "pip":
        verify_extras(rest)
    else:
        assert first in FOREIGN, f"what is {first!r}?"


def verify_management(name: str, arguments: list[str]) -> None:
    app = get_commands().get(name)
    assert app is not None, f"there is no command {name!r}"
    command = load_command_class(app, name) if isinstance(app, str) else app
    verify_options(command.create_parser("manage.py", name), arguments)


def verify_options(parser: argparse.ArgumentParser, arguments: list[str]) -> None:
    known = set(parser._option_string_actions)
    for word in arguments:
        option = word.partition("=")[0]
        assert not option.startswith("-") or option in known, f"{parser.prog} has no {option}"


def verify_module(name: str, arguments: list[str]) -> None:
    assert importlib.util.find_spec(name) is not None, f"there is no module {name!r}"
    if name == "example_project" and arguments[:1] == ["manage"]:
        verify_management(arguments[1], arguments[2:])
    elif name == "tests.django_suite":
        verify_options(importlib.import_module(f"{name}.__main__").parser(), arguments)
    elif name == "tests.pictures":
        makers = importlib.import_module(f"{name}.__main__").MAKERS
        assert set(arguments) <= set(makers), arguments
    elif name == "tests.benchmarks":
        verify_options(importlib.import_module(f"{name}.program").parser(), arguments)
    elif name in ("example_project", "tests"):
        package = ROOT / name
        text = "".join(path.read_text() for path in [*package.glob("*.py")])
        text += (ROOT / "example_project/bootstrap.py").read_text()
        for word in arguments:
            option = word.partition("=")[0]
            assert not option.startswith("--") or f'"{option}"' in text, f"{name} has no {option}"


def verify_extras(arguments: list[str]) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for word in arguments:
        if match := re.fullmatch(r"django-poolkit\[([\w,]+)\]", word):
            assert set(match[1].split(",")) <= set(extras["optional-dependencies"])


# -- links


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_links_lead_somewhere(page: Path) -> None:
    for target, heading in docs.links(page):
        assert target.exists(), f"{ids(page)} links to {target}"
        if heading:
            assert heading in docs.headings(target), f"{ids(page)}: no #{heading} in {target.name}"


def test_the_index_leads_to_every_page() -> None:
    orphans = set(DOCS.rglob("*.md")) - docs.reachable(INDEX)
    assert not orphans


def test_the_tests_that_the_readme_names_exist() -> None:
    text = (ROOT / "README.md").read_text()
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", text)
    assert len(named) > 5
    for path, test in named:
        source = (ROOT / path).read_text()
        assert not test or f"def {test}(" in source, f"{path}::{test}"


# -- tables against the code


def documented_options() -> dict[str, Any]:
    """The defaults that settings.md gives, by option."""
    text = page_named("reference/settings.md").read_text()
    options, guards = text.split("\n## The options\n")[1].split("\n## Guards\n")
    guards = guards.split("\n## ")[0]
    found: dict[str, Any] = {}
    for line in re.findall(r"^\| `.*$", options + guards, re.MULTILINE):
        key, default = [cell.strip() for cell in line.strip("|").split("|")][:2]
        if default.startswith("`"):
            name = "reset_callback" if "a callable" in key else key.strip("`")
            assert name not in found
            found[name] = ast.literal_eval(default.strip("`"))
    return found


def test_settings_md_has_every_option_with_its_default() -> None:
    expected = {f.name: f.default for f in fields(PoolConfig) if f.name != "guards"}
    expected |= dict.fromkeys((*SERVER_GUARDS, *LIBPQ_GUARDS))
    found = documented_options()
    assert set(found) == set(expected)
    for name, default in expected.items():
        shown = found[name]
        if isinstance(default, (tuple, frozenset)):
            assert set(shown) == set(default), name
        else:
            assert (shown, type(shown)) == (default, type(default)), name


def test_settings_md_has_the_default_that_depends_on_the_mode() -> None:
    text = page_named("reference/settings.md").read_text()
    [row] = [line for line in text.splitlines() if line.startswith("| `reset` | `")]
    shown = re.search(r'In transaction mode the default is `"(\w+)"`', row)
    assert shown is not None
    assert shown[1] == PoolConfig.from_options({"mode": "transaction"}).reset


def test_errors_md_has_every_error() -> None:
    text = page_named("reference/errors.md").read_text()
    public = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type)
        and issubclass(value, (errors.PoolError, errors.PoolWarning))
        and not name.startswith("_")
    }
    assert len(public) > 5
    assert public <= set(re.findall(r"^\| `(\w+)`", text, re.MULTILINE))


@pytest.mark.parametrize("kind", [PoolStats, HistogramStats, LeaseStats, Observations, Observation])
def test_statistics_md_has_every_figure(kind: type[Any]) -> None:
    text = page_named("reference/statistics.md").read_text()
    section = text.split(f"\n## {kind.__name__}\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    found = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    properties = {name for name, value in vars(kind).items() if isinstance(value, property)}
    assert found == {f.name for f in fields(kind)} | properties


def sources(*folders: str) -> str:
    paths = [p for folder in folders for p in (ROOT / "django_poolkit" / folder).rglob("*.py")]
    return "\n".join(path.read_text() for path in paths)


def test_statistics_md_has_every_reason_to_close() -> None:
    text = page_named("reference/statistics.md").read_text()
    section = text.split("\n## Why connections were closed\n")[1].split("\n## ")[0]
    found = set(re.findall(r"^\| `(\w+)`", section, re.MULTILINE))
    code = sources("pools/postgres", "pools/asyncpg")
    for reason in found:
        assert f'"{reason}"' in code, reason
    counted = set(re.findall(r'closed\["(\w+)"\]', code))
    settled = set(re.findall(r'_settle\(lease, \w+, "(\w+)"\)', code))
    homeward = (
        code_of("reset.py")
        + code_of("release.py")
        + code_of("adoption.py")
        + code_of("cleaning.py")
    )
    returned = set(re.findall(r'return "(\w+)"', homeward))
    states = set(re.findall(r"from .* import|= \"(dead|silent)\"", code_of("probe.py"))) - {""}
    assert counted | settled | returned | states <= found


def code_of(name: str) -> str:
    return (ROOT / "django_poolkit/pools/postgres" / name).read_text()


def test_transaction_mode_md_has_every_reason_to_pin() -> None:
    text = page_named("explanation/transaction-mode.md").read_text()
    section = text.split("\n## What pins\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    found = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    by_hand = set(re.findall(r'\.(?:mark_dirty|pin)\("(\w+)"\)', sources("")))
    assert {"raw", "parameter", "pinned"} <= by_hand
    assert found == set(Residue) | by_hand


def test_transaction_mode_md_has_every_setting_that_the_server_reports() -> None:
    text = page_named("explanation/transaction-mode.md").read_text()
    section = text.split("\n### What no text shows\n")[1].split("\n```")[0]
    for name in REPORTED:
        assert f"`{name.decode()}`" in section


def test_logging_md_has_every_event() -> None:
    text = page_named("reference/logging.md").read_text()
    rows = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
    found = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    code = sources("")
    logged = set(re.findall(r"event=(\w+)", code)) | set(re.findall(r'\bnote\("(\w+)"', code))
    assert found == logged
    for logger in set(re.findall(r'getLogger\("([\w.]+)"\)', code)):
        assert f"\n## {logger}\n" in text


def test_python_api_md_has_every_public_name() -> None:
    named = public_api.documented()
    assert set(django_poolkit.__all__) <= named
    pool = {
        name
        for kind in ConnectionPool.__mro__
        if kind.__module__.startswith("django_poolkit.")
        for name in vars(kind)
        if not name.startswith("_")
    }
    # Called by its own threads, and by leases.
    inner = {"run_attempt", "run_task", "job_done", "keep_house", "wake_attempt", "end_pause"}
    inner |= {"adopt_while_paused"}
    inner |= {"forget", "lost", "statements", "adopt_orphans", "look_after_waiters"}
    inner |= {"schedule_task", "retire_worker"}
    # Called by leases of tasks, and by the loops on which they wait.
    inner |= {"look_after_tasks", "end_in_task", "ends_quietly"}
    # Asked by cursors that the collector ends.
    inner |= {"ends_at_once"}
    # Called by leases of transaction mode, and told by its database wrappers.
    inner |= {"adrift", "count_pin", "greeting", "release_idle"}
    inner |= {"rest", "rouse", "end_rest", "collect"}
    # Told by those who look after a cluster, and read by them.
    inner |= {"note_lag", "count_eviction", "count_retry", "load"}
    inner |= {"note_lost", "note_found", "demand", "fenced"}
    # Told by cursors whose write was refused, or whose read is made again.
    inner |= {"demoted", "count_repeat"}
    assert pool - inner <= named
    lease = {name for name in vars(Lease) if not name.startswith("_")}
    inner = {"key", "pool", "stack", "ran", "foreign", "holds", "wrote", "committed", "lost"}
    inner |= {"prepares", "new_types", "listed"}  # what a release has to know
    inner |= {"in_block", "shared", "ends_on_loop"}  # who can end it
    inner |= {"forget_statements"}  # which its pool has it do, as it is used again
    # By these a database wrapper holds it in transaction mode, and a bare pool has none.
    inner |= {"keeper", "cursors", "gone", "owner", "pin", "pinned", "busy", "cursor_closed"}
    assert lease - inner <= named
    wrapper = {
        name
        for kind in PooledDatabaseWrapperMixin.__mro__
        if kind.__module__.startswith("django_poolkit.")
        for name in vars(kind)
        if not name.startswith("_") and not hasattr(DjangosWrapper, name)
    }
    # Called by leases, and at the end of a request.
    inner = {"on_idle", "on_adrift", "holds", "may_have_committed"}
    inner |= {"cancelled_by", "note_cancelled"}  # told by those who wait in the bridge
    assert "pinned" in wrapper
    # An attribute of each instance of Django's.
    assert wrapper - inner - {"connection"} <= named

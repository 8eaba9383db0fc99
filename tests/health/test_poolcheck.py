"""`manage.py poolcheck` probes everything once, and tells by its exit code how it went."""

from __future__ import annotations

import io
import itertools
import json
import os
import subprocess
import sys
import time
from argparse import ArgumentTypeError
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connections

from django_poolkit import health, registry
from django_poolkit.health.report import Figures, Report, Result
from django_poolkit.management.commands import poolcheck
from django_poolkit.testing import Node
from django_poolkit.testing.faults import silent_server

ROOT = Path(__file__).parents[2]
FIGURES = Figures(size=4, max_size=8, used=3, idle=1, waiters=2, utilization=0.375)
PASSES = Result(name="db:default", status="pass", latency=0.0012, figures=FIGURES)
WARNS = Result(name="http:supplier", status="warn", reason="saturated")
FAILS = Result(name="db:other", status="fail", reason="unreachable", latency=0.5, lag=3.0)

core = pytest.mark.core
# Seconds for a machine that is busy.
PATIENCE = "20"
_numbers = itertools.count()


class Ran:
    """What a run of the command has come to."""

    def __init__(self, *arguments: str, **options: Any) -> None:
        out = io.StringIO()
        self.code: Any = 0
        try:
            call_command("poolcheck", *arguments, stdout=out, **options)
        except SystemExit as ended:
            self.code = ended.code
        self.text = out.getvalue()

    @property
    def data(self) -> Any:
        return json.loads(self.text)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Result]:
    """What the checks say, for each test to fill in; they say no more than they are asked for."""
    results: list[Result] = []

    def look(names: list[str], timeout: float | None = None) -> Report:
        return Report(group="", results=tuple(each for each in results if each.name in names))

    monkeypatch.setattr(health, "look", look)
    monkeypatch.setattr(health, "names", lambda: [each.name for each in results])
    return results


# -- what it shows


@core
@pytest.mark.parametrize(
    ("results", "code"),
    [((), 0), ((PASSES,), 0), ((PASSES, WARNS), 1), ((FAILS, WARNS, PASSES), 2)],
)
@pytest.mark.parametrize("form", ["table", "json"])
def test_the_exit_code_is_that_of_the_worst(
    results: tuple[Result, ...], code: int, form: str, told: list[Result]
) -> None:
    told.extend(results)
    assert Ran("--format", form).code == code


@core
def test_the_table(told: list[Result]) -> None:
    told.extend([PASSES, WARNS, FAILS])
    assert Ran().text.splitlines() == [
        "fail",
        "CHECK          STATUS  REASON       LATENCY    LAG  USED  SIZE  WAIT",
        "db:default     pass    -             1.2 ms      -     3   4/8     2",
        "http:supplier  warn    saturated          -      -     -     -     -",
        "db:other       fail    unreachable   500 ms  3.0 s     -     -     -",
    ]


@core
def test_the_table_of_a_project_that_has_nothing(told: list[Result]) -> None:
    assert Ran().text == "pass\n  there is nothing to check\n"


@core
def test_the_table_is_painted_on_request(told: list[Result]) -> None:
    told.append(FAILS)
    assert "\x1b[" in Ran("--force-color").text
    assert "\x1b[" not in Ran().text


@core
@pytest.mark.parametrize("option", ["--json", "--format=json"])
def test_the_document(option: str, told: list[Result]) -> None:
    told.extend([PASSES, FAILS])
    found = Ran(option).data
    assert found["status"] == "fail"
    assert found["checks"]["db:default"]["pool"]["waiters"] == 2
    assert found["checks"]["db:other"] == {
        "status": "fail",
        "reason": "unreachable",
        "latency": 0.5,
        "latency_ms": 500.0,
        "lag": 3.0,
        "pool_size": None,
        "pool_checked_out": None,
        "pool": None,
    }
    assert not {"group", "age"} & set(found)


@core
def test_a_name_commands_no_terminal(told: list[Result]) -> None:
    told.append(Result(name="odd\x1b[31m", status="pass"))
    assert "\x1b" not in Ran().text


# -- what it is asked for


@core
def test_only_some_databases(told: list[Result]) -> None:
    told.extend([PASSES, WARNS, FAILS])
    ran = Ran("--json", "--database", "default", "--database", "default")
    assert (ran.code, list(ran.data["checks"])) == (0, ["db:default"])


@core
def test_a_database_that_does_not_exist() -> None:
    with pytest.raises(CommandError, match="has no 'nonsense'; there are: default") as caught:
        Ran("--database", "nonsense")
    assert caught.value.returncode == 2


@core
def test_own_checks_that_cannot_be_loaded(settings: Any) -> None:
    settings.POOLKIT = {**settings.POOLKIT, "HEALTH": {"CHECKS": ["tests.health.nonsense"]}}
    with pytest.raises(CommandError) as caught:
        Ran()
    assert caught.value.returncode == 2


@core
@pytest.mark.parametrize(("arguments", "timeout"), [((), None), (("--timeout", "7.5"), 7.5)])
def test_how_long_a_check_may_take(
    arguments: tuple[str, ...], timeout: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[float | None] = []

    def look(names: list[str], timeout: float | None = None) -> Report:
        given.append(timeout)
        return Report(group="", results=())

    monkeypatch.setattr(health, "look", look)
    assert Ran(*arguments).code == 0
    assert given == [timeout]


@core
@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "1e9", "soon", ""])
def test_a_timeout_that_makes_no_sense(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match=f"must be 0.05 to 3600 seconds, not {text}"):
        poolcheck._seconds(text)


@core
def test_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(health, "look", interrupted)
    assert Ran().code == 130


# -- with a server


@pytest.fixture
def alias(django_db_setup: None) -> Iterator[Callable[..., str]]:
    """Return a function that makes an alias like `default`, but for what it is given."""
    names: list[str] = []

    def alias(**changes: Any) -> str:
        name = f"probed{next(_numbers)}"
        before = connections.settings["default"]
        options = {"pool": {"name": name, "timeout": 5.0}}
        connections.settings[name] = {**before, "OPTIONS": options, **changes}
        names.append(name)
        return name

    yield alias
    registry.pools.close_all()
    for name in names:
        if hasattr(connections._connections, name):  # type: ignore[attr-defined]
            del connections[name]
        del connections.settings[name]


@core
@pytest.mark.usefixtures("transactional_db")
def test_a_database_is_probed_and_no_pool_is_opened(alias: Callable[..., str]) -> None:
    name = alias()
    ran = Ran("--json", "--database", name, "--timeout", PATIENCE)
    assert ran.code == 0
    found = ran.data["checks"][f"db:{name}"]
    assert (found["status"], found["pool"]["size"]) == ("pass", 0)
    assert 0 < found["latency"] < 5.0
    assert registry.connection_pools[name].stats().connects == 0


@core
@pytest.mark.usefixtures("transactional_db")
def test_it_looks_anew_each_time(alias: Callable[..., str]) -> None:
    name = alias()
    words = ("--json", "--database", name, "--timeout", PATIENCE)
    runs = [Ran(*words).data["checks"][f"db:{name}"] for _ in range(2)]
    assert [run["status"] for run in runs] == ["pass", "pass"]
    assert runs[0]["latency"] != runs[1]["latency"]


@core
@pytest.mark.usefixtures("transactional_db")
def test_a_database_that_does_not_answer(alias: Callable[..., str]) -> None:
    with silent_server() as server:
        name = alias(HOST=server.host, PORT=str(server.port))
        started = time.monotonic()
        ran = Ran("--json", "--database", name, "--timeout", "0.3")
        assert time.monotonic() - started < 5.0
    assert (ran.code, ran.data["checks"][f"db:{name}"]["reason"]) == (2, "timeout")


def test_from_a_shell(primary: Node) -> None:
    """With exit codes, while the database is there and while it is not."""
    facts = {"HOST": primary.host, "PORT": str(primary.port), "USER": primary.user}
    environment = os.environ | {f"POOLKIT_TEST_{key}": value for key, value in facts.items()}
    environment |= {"POOLKIT_TEST_PASSWORD": primary.password}
    environment |= {"DJANGO_SETTINGS_MODULE": "tests.health.shell", "PYTHONPATH": str(ROOT)}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-m", "django", "poolcheck", "--timeout", PATIENCE, *arguments]
        return subprocess.run(
            words, env=environment, capture_output=True, text=True, timeout=60.0, cwd="/"
        )

    done = run()
    assert done.returncode == 0, done
    assert "\ndb:default  pass" in done.stdout
    done = run("--database", "default", "--json")
    assert json.loads(done.stdout)["status"] == "pass"
    done = run("--timeout", "never")
    assert (done.returncode, done.stdout) == (2, "")
    environment["POOLKIT_TEST_PORT"] = "1"
    done = run()
    assert done.returncode == 2
    assert "\ndb:default  fail    unreachable" in done.stdout
    environment["POOLKIT_TEST_PORT"] = str(primary.port)
    environment["POOLKIT_TEST_PASSWORD"] = "s3same"
    done = run()
    assert done.returncode == 2
    assert "s3same" not in done.stdout + done.stderr

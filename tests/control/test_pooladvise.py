"""`manage.py pooladvise`, as it is typed."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from django_poolkit import registry
from django_poolkit.control.measured import FEWEST
from django_poolkit.pools import queueing
from tests.control.test_poolstatus import ROOT

_MANAGE = """
import json, os, sys
os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
from tests import settings
settings.DATABASES = {"default": json.loads(os.environ["DATABASE"])}
settings.POOLKIT = {"CONTROL": {"DIRECTORY": os.environ["PLACE"]}}
from django.core.management import execute_from_command_line
execute_from_command_line(["manage.py", "pooladvise", *sys.argv[1:]])
"""


@pytest.fixture(autouse=True)
def quick(database: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Have this process a database, and its simulations few leases."""
    monkeypatch.setattr(queueing, "LEAST", 4_000)
    monkeypatch.setattr(queueing, "MOST", 8_000)


def lease(count: int) -> None:
    """Have so many requests of this process come and go."""
    for _ in range(count):
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        connection.close()


@pytest.fixture
def used() -> None:
    """Make this process one of which something can be told."""
    lease(FEWEST)


def run(*arguments: str) -> tuple[int, str, str]:
    """Return the exit code, standard output and standard error."""
    out, err = io.StringIO(), io.StringIO()
    try:
        call_command("pooladvise", *arguments, stdout=out, stderr=err, no_color=True)
    except SystemExit as ended:
        return int(ended.code or 0), out.getvalue(), err.getvalue()
    return 0, out.getvalue(), err.getvalue()


def refused(*arguments: str) -> str:
    with pytest.raises(CommandError) as caught:
        run(*arguments)
    assert caught.value.returncode == 2
    return str(caught.value)


@pytest.mark.usefixtures("used")
def test_what_this_very_process_needs_is_told_over_its_socket() -> None:
    code, text, _ = run()
    assert code == 0
    assert re.search(r"^Pool default of .*, session mode, in 1 process$", text, re.MULTILINE)
    assert re.search(r"^MAX_SIZE +UTIL +QUEUED +WAIT P50 ", text, re.MULTILINE)
    assert re.search(r"^ +\d+ .*\bnow\b", text, re.MULTILINE)
    assert re.search(r"^ +\d+ .*\badvised\b", text, re.MULTILINE)
    assert "Really waited there: p50 up to 0.5 ms" in text
    assert re.search(r"Server of default: \d+ connections for these pools", text)
    assert text.rstrip().endswith("fine: nothing has to change")


@pytest.mark.usefixtures("used")
@pytest.mark.parametrize(
    ("option", "said"), [("--local", "Measured in the last"), ("--since-start", "since the start")]
)
def test_another_place_and_another_time_can_be_looked_at(option: str, said: str) -> None:
    code, text, _ = run(option)
    assert code == 0
    assert said in text


@pytest.mark.usefixtures("used")
def test_a_target_that_is_missed_is_exit_code_1() -> None:
    # A thousand times what 100 quick requests in a row are is more than eight connections do.
    code, text, _ = run("--load", "100000", "--target-p99", "0.001")
    assert code == 1
    assert "a change is advised: default" in text


@pytest.mark.usefixtures("used")
def test_the_document_is_one_with_everything() -> None:
    code, text, _ = run("--format", "json", "--cores", "8")
    document = json.loads(text)
    assert (code, document["exit_code"], document["status"]) == (0, 0, "fine")
    [pool] = document["pools"]
    assert pool["kind"]["pids"] == [os.getpid()]
    assert pool["load"]["rate"] > 0
    assert sum(pool["load"]["use"]["counts"]) == FEWEST
    [place] = document["servers"]
    assert place["budget"]["max_connections"] > 0
    assert place["plan"]["word"] == "fits"
    assert document["rules"][0]["connections"] == 17
    assert document["question"]["target"] == 0.05


def test_before_a_hundred_leases_there_is_nothing_to_tell() -> None:
    lease(FEWEST - 1)
    code, text, _ = run()
    assert code == 3
    assert "Nothing is measured yet: no kind of processes has had 100 leases." in text


def test_without_a_process_it_says_where_it_looked_and_what_can_be_supposed(place: Path) -> None:
    code, text, _ = run()
    assert code == 3
    assert f"No live process was found. Looked in {place}" in text
    assert "To plan before anything runs, suppose a load" in text
    code, text, err = run("--format", "json")
    assert (code, json.loads(text)["status"]) == (3, "nothing measured")
    assert "No live process was found" in err


def test_what_never_ran_can_be_planned() -> None:
    arguments = ["--database", "default", "--requests-per-second", "1000"]
    code, text, _ = run(*arguments, "--use-seconds", "0.02", "--workers", "500")
    assert code == 1
    assert "default_pool_size = " in text
    assert "Supposed, by each process:" in text


def test_half_a_supposition_makes_no_sense() -> None:
    arguments = ["--database", "default", "--requests-per-second", "1000"]
    assert "say by --use-seconds" in refused(*arguments)
    assert "--leases-per-request needs" in refused("--leases-per-request", "2")
    assert "is no pooled alias of DATABASES; these are: default" in refused("--database", "nope")


@pytest.mark.parametrize(
    ("option", "value"),
    [("--load", "0"), ("--target-p99", "-1"), ("--workers", "0"), ("--use-seconds", "nan"),
     ("--requests-per-second", "inf"), ("--spare", "-1"), ("--hosts", "1.5"), ("--cores", "x")],
)  # fmt: skip
def test_a_figure_that_is_none_is_refused(option: str, value: str) -> None:
    with pytest.raises(CommandError) as caught:  # with status 2, where it is typed
        run(option, value)
    assert f"argument {option}: must be a" in str(caught.value)
    assert str(caught.value).endswith(f"not {value}")


@pytest.mark.usefixtures("used")
def test_a_command_that_nothing_runs_is_not_measured() -> None:
    assert run("--command", "nothing")[0] == 3


def _environment(settings: dict[str, Any], place: Path) -> dict[str, str]:
    return {**os.environ, "DATABASE": json.dumps(settings, default=str), "PLACE": str(place)}


def _typed(
    settings: dict[str, Any], place: Path, *arguments: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _MANAGE, *arguments],
        cwd=ROOT, env=_environment(settings, place),
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.usefixtures("used")
def test_from_another_shell_it_asks_the_live_process(database: dict[str, Any], place: Path) -> None:
    done = _typed(database, place, "--format", "json")
    assert done.returncode == 0, done.stderr
    [pool] = json.loads(done.stdout)["pools"]
    assert pool["kind"]["pids"] == [os.getpid()]
    assert [each.stats().acquired for each in registry.pools] == [FEWEST]  # it took none itself


@pytest.mark.usefixtures("used")
def test_whoever_reads_may_leave(database: dict[str, Any], place: Path) -> None:
    nobody, pipe = os.pipe()
    os.close(nobody)
    done = subprocess.run(
        [sys.executable, "-c", _MANAGE],
        cwd=ROOT, env=_environment(database, place),
        stdout=pipe, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
    )  # fmt: skip
    os.close(pipe)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


def test_the_help_teaches(database: dict[str, Any], place: Path) -> None:
    done = _typed(database, place, "--help")
    assert done.returncode == 0
    for word in ("simulates a queue", "examples:", "exit codes:", "what if:", "--target-p99"):
        assert word in done.stdout

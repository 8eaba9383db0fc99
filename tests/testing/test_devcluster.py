"""`manage.py devcluster`, as a developer runs it."""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys

import psycopg
import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from tests.testing.conftest import ROOT, servers_of


@pytest.fixture
def start(tmp_path):
    """Return a function that starts the command in a project without any DATABASES."""
    (tmp_path / "bare_settings.py").write_text(
        "SECRET_KEY = 'x'\nINSTALLED_APPS = ['django_poolkit']\nUSE_TZ = True\n"
    )
    path = os.pathsep.join([str(tmp_path), str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path, "DJANGO_SETTINGS_MODULE": "bare_settings"}
    started = []

    def run(*arguments):
        process = subprocess.Popen(
            [sys.executable, "-m", "django", "devcluster", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.terminate()
        process.communicate(timeout=60)


def connect(entry):
    return psycopg.connect(
        host=entry["HOST"],
        port=entry["PORT"],
        user=entry["USER"],
        password=entry["PASSWORD"],
        dbname=entry["NAME"],
    )


def test_the_printed_settings_work_and_ctrl_c_stops_everything(start):
    process = start("--replicas", "1")
    text = ""
    while not text.endswith("\n}\n"):
        line = process.stdout.readline()
        assert line, process.stderr.read()
        text += line
    databases = ast.literal_eval(text.partition("DATABASES = ")[2])
    assert list(databases) == ["default", "replica1"]
    assert databases["replica1"]["TEST"] == {"MIRROR": "default"}
    for alias, in_recovery in (("default", False), ("replica1", True)):
        assert databases[alias]["ENGINE"] == "django_poolkit.backends.postgresql"
        with connect(databases[alias]) as connection:
            answer = connection.execute("SELECT pg_is_in_recovery()").fetchone()
        assert answer == (in_recovery,)
    process.send_signal(signal.SIGINT)
    rest, problems = process.communicate(timeout=60)
    assert (process.returncode, problems) == (0, "")
    assert "Stopping." in rest
    with pytest.raises(psycopg.OperationalError, match="refused"):
        connect(databases["default"])


def test_with_a_directory_the_same_settings_hold_the_next_time(start, open_directory):
    answers = []
    for _ in range(2):
        process = start("--json", "--directory", str(open_directory))
        answers.append(json.loads(process.stdout.readline()))
        assert servers_of(open_directory)
        process.terminate()
        assert process.communicate(timeout=60) == ("", "")
        assert process.returncode == 0
        assert not servers_of(open_directory)
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--replicas", "-1"], r"replicas \(-1\) is below 0"),
        (["--port", "70000"], r"port \(70000\)"),
    ],
)
def test_bad_arguments_are_one_sentence(arguments, message):
    with pytest.raises(CommandError, match=message):
        call_command("devcluster", *arguments)


def test_a_cluster_that_cannot_start_is_one_error_without_a_traceback(start, open_directory):
    first = start("--json", "--directory", str(open_directory))
    assert first.stdout.readline()
    second = start("--directory", str(open_directory))
    output, problems = second.communicate(timeout=60)
    assert second.returncode == 1
    assert output == ""
    assert problems.startswith("CommandError: another process runs the cluster in")
    assert "Traceback" not in problems


def test_the_help_teaches(start):
    process = start("--help")
    text, _ = process.communicate(timeout=60)
    assert "examples:\n  manage.py devcluster " in text
    assert "never for data you would miss" in text

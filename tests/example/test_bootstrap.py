"""The options that both commands share, and what they say first."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import django
import pytest

from example_project.bootstrap import Wish, is_of, split_options

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("arguments", "wish", "rest"),
    [
        ([], Wish(), []),
        (["-m", "core", "-x"], Wish(), ["-m", "core", "-x"]),
        (["--python", "3.12", "-k", "a"], Wish(python="3.12"), ["-k", "a"]),
        (["-q", "--python=3.12", "--django=5.2"], Wish(python="3.12", django="5.2"), ["-q"]),
        (["--django", "5.2.3", "tests/a.py::b"], Wish(django="5.2.3"), ["tests/a.py::b"]),
        # Not abbreviated: pytest and Django have options that begin alike.
        (["--pyargs", "--p"], Wish(), ["--pyargs", "--p"]),
    ],
)
def test_the_bootstraps_options_are_taken_out_of_the_others(arguments, wish, rest):
    assert split_options(arguments) == (wish, rest)


@pytest.mark.parametrize("version", ["5", "latest", "5.2; rm"])
def test_what_is_no_django_version_is_refused(version, capsys):
    with pytest.raises(SystemExit):
        split_options(["--django", version])

    assert "is no Django version such as 5.2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wish", "name", "pins"),
    [
        (Wish(), ".venv", ()),
        (Wish(python="3.11", django="5.2"), ".envs/py311-django52", ("django==5.2.*",)),
        (Wish(python="python3.12"), ".envs/py312", ()),
        (Wish(python="/opt/x/python3.12"), ".envs/pyoptxpython312", ()),
        (Wish(django="6.0.2"), ".envs/django602", ("django==6.0.2",)),
    ],
)
def test_a_chosen_pair_has_an_environment_of_its_own(wish, name, pins):
    assert (wish.name, wish.pins) == (name, pins)


def enter(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Start the tests' command as the bootstrap does once it is inside."""
    command = [sys.executable, "-m", "tests", "--inside", sys.prefix, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_the_first_line_names_python_django_and_postgresql():
    first, pair = enter("--pair").stdout.splitlines()

    python = ".".join(map(str, sys.version_info[:3]))
    assert re.fullmatch(
        rf"Python {python}, Django {django.__version__}, PostgreSQL \d+\.\d+", first
    )
    assert (
        pair
        == f"{sys.version_info[0]}.{sys.version_info[1]} {'.'.join(map(str, django.VERSION[:2]))}"
    )


def test_another_django_than_the_one_asked_for_is_refused():
    result = enter("--django", "4.2", "--pair")

    assert result.returncode == 1
    assert f"Django 4.2 was asked for, {django.__version__} is installed" in result.stderr


def test_the_django_that_was_asked_for_is_taken():
    major, minor = django.VERSION[:2]

    assert enter("--django", f"{major}.{minor}", "--pair").returncode == 0


@pytest.mark.parametrize(
    ("version", "series", "expected"),
    [
        ("6.1", "6.1", True),
        ("6.1.3", "6.1", True),
        ("6.1.3", "6.1.3", True),
        ("6.10", "6.1", False),
        ("6.10.2", "6.1", False),
        ("6.1.30", "6.1.3", False),
        ("6.1", "6.10", False),
    ],
)
def test_a_version_that_only_begins_alike_is_another_series(version, series, expected):
    assert is_of(version, series) is expected


def test_help_needs_no_environment():
    # Without the site's packages, as where nothing has been installed yet.
    command = [sys.executable, "-S", "-m", "example_project", "--check", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: python3 -m example_project ")
    assert "--flood N" in done.stdout

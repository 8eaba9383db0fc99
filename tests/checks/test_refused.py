"""`manage.py check` names all that a start refuses, where a start names the first."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SETTINGS = """
SECRET_KEY = "tests only"
INSTALLED_APPS = ["django_poolkit"]
ENGINE = "django_poolkit.backends.postgresql"
DATABASES = {
    "default": {"ENGINE": ENGINE, "NAME": "a", "OPTIONS": {"pool": {"max_sise": 1}}},
    "other": {"ENGINE": ENGINE, "NAME": "b", "OPTIONS": {"hosts": []}},
    "stock": {"ENGINE": "django.db.backends.postgresql", "OPTIONS": {"pool": {"mode": "session"}}},
}
POOLKIT = {
    "LIFESPAN": {"STOP": 1},
    "CONTROL": {"STEERING": "all"},
    "HTTP": {"api": {"limmit": 1}, "other": {"ssl": False}},
    "HEALTH": {"PATH": 1},
    "ROUTING": {"WEIGHT": 1},
    "CLUSTERS": {"default": {"replica": []}},
}
"""
MANAGE = """
import os, sys
from django.core.management import execute_from_command_line
os.environ["DJANGO_SETTINGS_MODULE"] = "refused"
execute_from_command_line(sys.argv)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project whose settings are wrong in many places."""
    (tmp_path / "refused.py").write_text(SETTINGS)
    (tmp_path / "manage.py").write_text(MANAGE)
    return tmp_path


def manage(project: Path, *arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(project / "manage.py"), *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=project, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    return done.returncode, done.stderr


def test_check_names_all_of_them(project: Path) -> None:
    code, said = manage(project, "check", "--database", "default")
    assert code == 1
    assert "Traceback" not in said
    for name in ("E001", "E004", "E006"):
        assert said.count(f"(poolkit.{name})") == 1
    assert said.count("(poolkit.E008)") == 7
    for what in ("'max_sise'", "['hosts'] must", "options of django_poolkit (mode)", "'STOP'",
                 "['STEERING'] must", "['limmit']", "['ssl'] must not"):  # fmt: skip
        assert what in said


def test_a_section_that_does_not_exist_is_told_once(project: Path) -> None:
    with (project / "refused.py").open("a") as settings:
        settings.write('DATABASES = {}\nPOOLKIT = {"HEALHT": {}}\n')
    code, said = manage(project, "check")
    assert code == 1
    assert said.count("POOLKIT['HEALHT']: there is no such setting. Did you mean 'HEALTH'?") == 1


def test_any_other_command_refuses_the_first(project: Path) -> None:
    code, said = manage(project, "sqlflush")
    assert code == 1
    assert "ImproperlyConfigured" in said.splitlines()[-1]
    assert "'max_sise'" in said
    assert "STEERING" not in said

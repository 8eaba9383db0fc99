"""`manage.py pooladvise --migrate`, as it is typed in a project that has not moved yet."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.control.test_poolstatus import ROOT

_MANAGE = """
import os, sys
os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
from tests import settings
secret = {"NAME": "s3-name", "HOST": "s3-host", "USER": "s3-user", "PASSWORD": "s3-word"}
settings.DATABASES = {
    "default": {**secret, "ENGINE": "dj_db_conn_pool.backends.postgresql",
                "POOL_OPTIONS": {"POOL_SIZE": 4, "MAX_OVERFLOW": 2}},
    "old": {**secret, "ENGINE": "django.db.backends.postgresql", "CONN_MAX_AGE": 60},
    "lite": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"},
}
settings.INSTALLED_APPS = ["django_poolkit"]
from django.core.management import execute_from_command_line
execute_from_command_line(["manage.py", "pooladvise", "--migrate", *sys.argv[1:]])
"""


def run(*arguments: str) -> tuple[int, str, str]:
    """Return the exit code, standard output and standard error. No server is there to be asked."""
    done = subprocess.run(
        [sys.executable, "-c", _MANAGE, *arguments],
        cwd=ROOT,
        env=os.environ | {"NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout, done.stderr


def test_a_table_for_each_alias_and_settings_to_paste():
    code, text, errors = run()
    assert (code, errors) == (0, "")
    assert "Alias default: from django-db-connection-pool to django_poolkit.backends" in text
    assert "CONN_MAX_AGE  60" in text
    assert "Alias lite: django.db.backends.sqlite3 is no PostgreSQL" in text
    assert "s3-" not in text
    tables, _, paste = text.partition("# To paste")
    assert "max_size" in tables
    databases: dict[str, dict[str, object]] = {"default": {"POOL_OPTIONS": {}}, "old": {}}
    exec(f"#{paste}", {"DATABASES": databases})
    assert databases["default"] == {
        "ENGINE": "django_poolkit.backends.postgresql",
        "CONN_MAX_AGE": 0,
        "OPTIONS": {"pool": {"max_size": 6, "min_size": 4}},
    }


def test_json_has_the_same():
    code, text, _ = run("--format", "json", "--database", "default")
    found = json.loads(text)
    assert code == 0
    assert found["version"] == 1
    [move] = found["moves"]
    assert move["pool"] == {"max_size": 6, "min_size": 4}
    assert move["from"]["name"] == "django-db-connection-pool"
    assert move["removed"] == ["POOL_OPTIONS"]
    assert found["left"] == []
    assert "s3-" not in text


def test_where_nothing_moves_that_is_the_exit_code():
    code, text, _ = run("--database", "lite")
    assert code == 3
    assert "To paste" not in text


@pytest.mark.parametrize("arguments", [("--database", "nowhere"), ("--workers", "3")])
def test_what_makes_no_sense_is_refused(arguments: tuple[str, ...]):
    code, _, errors = run(*arguments)
    assert code == 2
    assert arguments[1] in errors or arguments[0] in errors

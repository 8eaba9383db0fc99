"""Programs of their own: what a process does from its start to its end, seen from outside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from django_poolkit.testing import Node

NAME = "script"
"""The application_name of a script's connections."""

_BEGIN = f"""
import json, os, sys
import django
from django.conf import settings
settings.configure(
    DATABASES={{"default": json.loads(os.environ["SCRIPT_DATABASE"])}},
    INSTALLED_APPS=["django_poolkit"],
    USE_TZ=True,
)
django.setup()
from django.db import connection, connections

def one(sql):
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchone()[0]

def pid():
    return one("SELECT pg_backend_pid()")

def sessions():
    return one("SELECT count(*) FROM pg_stat_activity WHERE application_name = '{NAME}'")
"""


@dataclass(frozen=True)
class Outcome:
    """What came of a script."""

    lines: list[str]
    errors: str
    status: int
    farewell: float
    """Seconds from its last line to its end."""


def run_script(primary: Node, text: str, **pool: Any) -> Outcome:
    """Run Python code in a Django project of its own; warnings are errors in it.

    `pid()`, `one(sql)` and `sessions()` are at its hands, beside `connection`.
    """
    database = {
        "ENGINE": "django_poolkit.backends.postgresql",
        **primary.django_settings(),
        "OPTIONS": {"pool": pool or True, "application_name": NAME},
    }
    process = subprocess.Popen(
        [sys.executable, "-X", "dev", "-W", "error", "-c", _BEGIN + textwrap.dedent(text)],
        env=os.environ | {"SCRIPT_DATABASE": json.dumps(database), "PYTHONUNBUFFERED": "1"},
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    lines, last = [], monotonic()
    try:
        for line in process.stdout:
            lines.append(line.strip())
            last = monotonic()
        _, errors = process.communicate(timeout=30.0)
    finally:
        process.kill()
        process.wait()
    return Outcome(lines, errors, process.returncode, monotonic() - last)

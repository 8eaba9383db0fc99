"""SQLAlchemy's own tests of a dialect, as far as they touch connections, on both pools."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from django_poolkit.testing import Node
from tests.neighbours.support import ROOT, own_database

POOLS = {"poolkit": "default", "poolkit_async": "asyncpg:default"}
"""The names of the dialects in a URL, and their pools."""
SUITE = Path(__file__).parent / "suite"
# Transactions, cursors, events and errors. The rest is left to the slow run.
_CORE = (
    "Isolation", "ServerSideCursors", "SetDefaultSchema", "Ping", "ExceptionTest", "RowFetch",
    "RowCount", "InsertBehavior",
)  # fmt: skip
# Where the codecs of the pool read JSON, no engine has a deserializer of its own.
_NOT_OF_THE_POOL = "test_round_trip_custom_json"


@pytest.fixture
def database(primary: Node) -> Iterator[dict[str, Any]]:
    """A database with the schemas that the tests write to."""
    with own_database(primary, "suite", mode="transaction") as entry:
        with primary.connect(dbname="suite") as connection:
            connection.execute("CREATE SCHEMA test_schema")
            connection.execute("CREATE SCHEMA test_schema_2")
        yield entry


def run(
    drivers: tuple[str, ...], chosen: str, database: dict[str, Any]
) -> tuple[int, list[dict[str, Any]]]:
    """Run the tests; return how many passed, and what each pool says at the end."""
    plugins = ["tests.neighbours.sqlalchemy.suite.plugin", "sqlalchemy.testing.plugin.pytestplugin"]
    without = ["django", "django_poolkit", "randomly", "timeout", "logging", "cacheprovider"]
    done = subprocess.run(
        [
            sys.executable, "-m", "pytest", "-q", "-c", SUITE / "pytest.ini", f"--rootdir={SUITE}",
            *(f"-p{name}" for name in plugins), *(f"-pno:{name}" for name in without),
            *(f"--dburi=postgresql+{driver}:///default" for driver in drivers),
            "-k", chosen, SUITE / "dialect.py",
        ],
        cwd=ROOT,
        env=os.environ | {"SUITE": json.dumps({"database": database}), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=150.0,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    return int(passed[1]), [
        json.loads(line.removeprefix("pool: "))
        for line in done.stdout.splitlines()
        if line.startswith("pool: ")
    ]


def check(drivers: tuple[str, ...], chosen: str, least: int, database: dict[str, Any]) -> None:
    """Run the tests; see that they did not skip themselves, and that no lease is left."""
    passed, pools = run(drivers, chosen, database)
    assert passed >= least
    names = {each["name"] for each in pools}
    assert {POOLS[driver] for driver in drivers} <= names
    for found in pools:
        assert (found["used"], found["leaks"]) == (0, 0)
        assert found["acquired"] > least / 4


def test_what_touches_connections(database: dict[str, Any]) -> None:
    check((*POOLS,), " or ".join(_CORE), 100, database)


@pytest.mark.slow
@pytest.mark.parametrize("driver", POOLS)
def test_all_of_it(driver: str, database: dict[str, Any]) -> None:
    left_out = _NOT_OF_THE_POOL if driver == "poolkit_async" else "nothing"
    check((driver,), f"not {left_out}", 400, database)

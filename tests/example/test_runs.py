"""What is run: the same for all, but for what is compared."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from example_project.runs import ENGINES, PGBOUNCER, loads, runs_of, runs_through_pgbouncer

ROOT = Path(__file__).parents[2]
LOADS = loads(48, 200)

_SETTINGS = """
from example_project import settings
options = settings.DATABASES["default"]["OPTIONS"]
print(settings.ENGINE, sorted(options["pool"].items()))
"""


def settings_of(variables: dict[str, str]) -> str:
    """Return engine and pool options of a site that is given these variables."""
    return subprocess.run(
        [sys.executable, "-c", _SETTINGS],
        env={"SHOP_HOME": "/nonexistent", "PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()


def test_every_run_has_a_name_of_its_own():
    runs = [run for load in LOADS for run in runs_of(load)]

    assert len(runs) == len({run.key for run in runs}) == len({run.title for run in runs}) == 9


def test_only_the_crowd_meets_a_slow_supplier_and_only_the_outage_kills():
    everyday, crowd, outage = LOADS

    assert (everyday.in_flight, crowd.in_flight, outage.in_flight) == (48, 200, 48)
    assert everyday.supplier_seconds == outage.supplier_seconds < crowd.supplier_seconds
    assert [load.kill for load in LOADS] == [False, False, True]
    assert all(sum(load.mix.values()) == 100 for load in LOADS)


SHARED = "('max_size', 4), ('min_size', 2)"


@pytest.mark.parametrize(
    ("engine", "expected"),
    [
        (
            "transaction",
            (
                "django_poolkit.backends.postgresql"
                f" [{SHARED}, ('mode', 'transaction'), ('timeout', 3.0)]"
            ),
        ),
        (
            "session",
            f"django_poolkit.backends.postgresql [{SHARED}, ('mode', 'session'), ('timeout', 3.0)]",
        ),
        ("django", f"django.db.backends.postgresql [{SHARED}, ('timeout', 3.0)]"),
    ],
)
def test_the_engines_differ_in_engine_and_mode_and_nothing_else(engine, expected):
    (found,) = (one for one in ENGINES if one.key == engine)

    assert settings_of(dict(found.variables)) == expected


def test_pgbouncer_is_transaction_mode_with_the_pooler_declared():
    declared = f"[{SHARED}, ('mode', 'transaction'), ('pooler', 'pgbouncer-transaction')"

    assert declared in settings_of(dict(PGBOUNCER.variables))
    assert [len(runs_through_pgbouncer(load)) for load in LOADS] == [1, 1, 0]


def test_the_shop_is_in_transaction_mode_unless_told_otherwise():
    assert settings_of({}) == settings_of(dict(ENGINES[0].variables))
    assert ENGINES[0].key == "transaction"

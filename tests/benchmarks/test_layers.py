"""The program of a request's layers: it runs, and each function is of one layer."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks import layers

ROOT = Path(__file__).parents[2]


def test_the_layers_of_a_request_add_up() -> None:
    command = [sys.executable, "-m", "tests.benchmarks.layers", "--rounds", "1", "--times", "20"]
    done = subprocess.run(
        [*command, "--json"], cwd=ROOT, capture_output=True, text=True, timeout=170.0
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    by: dict[str, dict[str, float]] = {}
    for row in rows:
        by.setdefault(row["contestant"], {})[row["layer"]] = row["us"]
    assert len(by) == 6
    for name, found in by.items():
        total = found.pop(layers.TOTAL)
        assert sum(found.values()) == pytest.approx(total), name
        assert found["the ORM"] > 0
        assert (found["django_poolkit"] > 0) is name.startswith("ours")
        assert found["psycopg, with its C"] > 0
    assert by["Django's pool"]["psycopg_pool"] > 0
    assert by["CONN_MAX_AGE=None"]["psycopg_pool"] == 0


@pytest.mark.parametrize(
    ("path", "name", "layer"),
    [
        ("/x/site-packages/django/db/models/query.py", "get", "the ORM"),
        ("/x/site-packages/django/db/utils.py", "wrap", "Django's wrapper of the driver"),
        ("/x/site-packages/psycopg_pool/pool.py", "getconn", "psycopg_pool"),
        ("/x/site-packages/psycopg/cursor.py", "execute", "psycopg, with its C"),
        ("/y/django_poolkit/pools/postgres/pool.py", "acquire", "django_poolkit"),
        ("~", "<method 'parse_row' of 'psycopg_binary._psycopg.Transformer' objects>",
         "psycopg, with its C"),
        ("~", "<built-in method builtins.len>", layers.OTHERS),
    ],
)  # fmt: skip
def test_each_function_is_of_one_layer(path: str, name: str, layer: str) -> None:
    assert layers.layer_of(path, name) == layer


def test_its_help_says_how_to_read_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        layers.parsed(["--help"])
    text = capsys.readouterr().out
    assert "all of it" in text
    assert "shares" in text
    with pytest.raises(SystemExit):
        layers.parsed(["--times", "0"])

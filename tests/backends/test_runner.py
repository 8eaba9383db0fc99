"""Django's own test runner on a pool: cloned and dropped databases, forks, a live server."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from django_poolkit.testing import Node

SETTINGS = """
import os
SECRET_KEY = "x"
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "django_poolkit"]
USE_TZ = True
ROOT_URLCONF = "project"
STATIC_URL = "/static/"
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
from django.http import HttpResponse
from django.urls import path
def count(request):
    from django.contrib.auth.models import User
    return HttpResponse(str(User.objects.count()))
urlpatterns = [path("count", count)]
DATABASES = {"default": {
    "ENGINE": "django_poolkit.backends.postgresql", "NAME": "runner", "USER": os.environ["PGU"],
    "PASSWORD": os.environ["PGP"], "HOST": os.environ["PGH"], "PORT": os.environ["PGN"],
    "OPTIONS": {"pool": {"min_size": 1, "max_size": 4}}}}
"""
TESTS = """
import os
from threading import Thread
from urllib.request import urlopen
from django.contrib.auth.models import User
from django.db import connection, connections
from django.test import LiveServerTestCase, TestCase, TransactionTestCase, override_settings

class Pooled:
    def test_the_connection_is_leased(self):
        User.objects.create(username="one")
        self.assertEqual(connection._lease.pool.name.split("~")[0], "default")
        self.assertEqual(User.objects.count(), 1)

class InTransaction(Pooled, TestCase):
    def test_rolled_back(self):
        self.assertFalse(User.objects.exists())
        User.objects.create(username="gone afterwards")

class Truncated(Pooled, TransactionTestCase):
    def test_a_thread(self):
        def work():
            User.objects.create(username="thread")
            connections.close_all()
        thread = Thread(target=work)
        thread.start()
        thread.join()
        self.assertTrue(User.objects.filter(username="thread").exists())

    @override_settings(TIME_ZONE="Asia/Tokyo", USE_TZ=False)
    def test_another_zone(self):
        connection.close()
        with connection.cursor() as cursor:
            cursor.execute("SHOW TimeZone")
            self.assertEqual(cursor.fetchone(), ("Asia/Tokyo",))

class Live(LiveServerTestCase):
    def test_over_http(self):
        User.objects.create(username="seen by the server")
        with urlopen(self.live_server_url + "/count") as answer:
            self.assertEqual(answer.read(), b"1")
"""


@pytest.mark.parametrize("flags", [[], ["--parallel", "2"], ["--keepdb", "--reverse"]], ids=str)
def test_djangos_runner_works_with_a_pool(tmp_path: Path, primary: Node, flags: list[str]) -> None:
    (tmp_path / "project.py").write_text(SETTINGS)
    (tmp_path / "tests.py").write_text(TESTS)
    root = Path(__file__).parent.parent.parent
    environment: dict[str, Any] = {
        **os.environ,
        "PGU": primary.user,
        "PGP": primary.password,
        "PGH": primary.host,
        "PGN": str(primary.port),
        "DJANGO_SETTINGS_MODULE": "project",
        "PYTHONPATH": f"{tmp_path}{os.pathsep}{root}",
    }
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "error::ResourceWarning",
            "-m",
            "django",
            "test",
            "tests",
            "--noinput",
            *flags,
        ],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "Ran 6 tests" in done.stderr
    with primary.connect() as raw:
        names = raw.execute("SELECT datname FROM pg_database").fetchall()
    left = {name for (name,) in names if name.startswith("test_runner")}
    assert left == ({"test_runner"} if "--keepdb" in flags else set())
    if left:
        primary.drop_database("test_runner")

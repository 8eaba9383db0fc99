"""Django settings of the tests. `tests/conftest.py` fills in where the server is."""

import atexit
import os
import secrets
import shutil
from typing import Any

SECRET_KEY = "tests only"
USE_TZ = True
TIME_ZONE = "UTC"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
ROOT_URLCONF = "tests.urls"
ALLOWED_HOSTS = ["*"]

# One for the run, which the processes that it starts inherit. The first of them that has a pool
# makes it: a plugin of mypy's imports this file, too, and ends without a farewell.
if "POOLKIT_TEST_CONTROL" not in os.environ:
    os.environ["POOLKIT_TEST_CONTROL"] = f"/tmp/pk-{secrets.token_hex(4)}"
    _maker = os.getpid()

    @atexit.register
    def _remove_directory() -> None:
        if os.getpid() == _maker:
            shutil.rmtree(os.environ["POOLKIT_TEST_CONTROL"], ignore_errors=True)


POOLKIT = {"CONTROL": {"DIRECTORY": os.environ["POOLKIT_TEST_CONTROL"]}}

INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django_poolkit",
    "tests.app",
    "example_project.shop",
]

DATABASES: dict[str, dict[str, Any]] = {
    "default": {
        "ENGINE": "django_poolkit.backends.postgresql",
        "NAME": "poolkit",
        "USER": os.environ.get("POOLKIT_TEST_USER", "postgres"),
        "PASSWORD": os.environ.get("POOLKIT_TEST_PASSWORD", ""),
        "HOST": os.environ.get("POOLKIT_TEST_HOST", "127.0.0.1"),
        "PORT": os.environ.get("POOLKIT_TEST_PORT", "5432"),
        "OPTIONS": {"pool": {"max_size": 8}},
    },
}

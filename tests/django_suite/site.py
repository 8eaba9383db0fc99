"""Settings that Django's `runtests.py` is given: one variant of the two databases it asks for."""

from __future__ import annotations

import json
import os
from typing import Any

_variant: dict[str, Any] = json.loads(os.environ["POOLKIT_DJANGO_SUITE"])


def _database(name: str) -> dict[str, Any]:
    return {**_variant["database"], "NAME": name}


DATABASES = {"default": _database("django"), "other": _database("django2")}
TEST_RUNNER = "tests.django_suite.recorder.Recorder"

# As Django's own settings for its tests have it.
SECRET_KEY = "tests only"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
USE_TZ = False

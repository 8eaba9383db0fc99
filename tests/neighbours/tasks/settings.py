"""A site whose tasks wait in its database. The environment says where that is."""

from __future__ import annotations

import json
import os
from typing import Any

SECRET_KEY = "tests only"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = ["django_tasks_db", "django_poolkit", "tests.app"]
TASKS = {
    "default": {"BACKEND": "tests.neighbours.tasks.backends.Stored"},
    "immediate": {"BACKEND": "tests.neighbours.tasks.backends.Immediate"},
}
_given: dict[str, Any] = json.loads(os.environ["TASKS_SITE"])
DATABASES = {"default": _given["database"]}
POOLKIT = {"CONTROL": {"DIRECTORY": os.environ["POOLKIT_TEST_CONTROL"], "SERVICE": "tasks"}}

"""A site with a queue of jobs in its database. The environment says where that is."""

from __future__ import annotations

import json
import os
from typing import Any

SECRET_KEY = "tests only"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = ["procrastinate.contrib.django", "django_poolkit", "tests.app"]
PROCRASTINATE_IMPORT_PATHS = ["tests.neighbours.jobs.tasks"]
_given: dict[str, Any] = json.loads(os.environ["JOBS"])
DATABASES = {"default": _given["database"]}
POOLKIT = {"CONTROL": {"DIRECTORY": os.environ["POOLKIT_TEST_CONTROL"], "SERVICE": "jobs"}}

"""A site whose notes have a history. The environment says where the database is."""

from __future__ import annotations

import json
import os
from typing import Any

SECRET_KEY = "tests only"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "tests.neighbours.history.site"
INSTALLED_APPS = [
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "pgtrigger",
    "pghistory",
    "django_poolkit",
    "tests.neighbours.history",
]
MIDDLEWARE = ["pghistory.middleware.HistoryMiddleware"]
_given: dict[str, Any] = json.loads(os.environ["HISTORY"])
DATABASES = {"default": _given["database"]}

"""Settings of the site in a process of its own. Where its database is comes by environment."""

from __future__ import annotations

import json
import os
from typing import Any

SECRET_KEY = "tests only"
ALLOWED_HOSTS = ["*"]
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
ROOT_URLCONF = "tests.neighbours.fastapi.site.urls"
INSTALLED_APPS = ["django_poolkit", "tests.app"]
DATABASES = json.loads(os.environ["SITE_DATABASES"])
POOLKIT = json.loads(os.environ["SITE_POOLKIT"])
LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(levelname)s %(name)s %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["stderr"], "level": "INFO"},
}

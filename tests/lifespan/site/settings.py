"""Settings of the site that the servers serve. Where its database is comes from SITE_DATABASE."""

from __future__ import annotations

import json
import os
from typing import Any

SECRET_KEY = "tests only"
ALLOWED_HOSTS = ["*"]
USE_TZ = True
ROOT_URLCONF = "tests.lifespan.site.urls"
INSTALLED_APPS = ["django_poolkit"]
MIDDLEWARE = ["django.middleware.common.CommonMiddleware"]
DATABASES = json.loads(os.environ.get("SITE_DATABASES", "{}"))
POOLKIT = json.loads(os.environ.get("SITE_POOLKIT", "{}"))
PLAN = json.loads(os.environ.get("SITE_PLAN", "{}"))
_named = [f"tests.lifespan.site.resources.{name}" for name in PLAN]
POOLKIT["LIFESPAN"] = {"RESOURCES": _named, **POOLKIT.get("LIFESPAN", {})}
LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(levelname)s %(name)s %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["stderr"], "level": "INFO"},
    "loggers": {"django_poolkit": {"level": "DEBUG"}},
}

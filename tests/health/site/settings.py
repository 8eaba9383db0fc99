"""Settings of the site that the servers serve. Where its databases are comes from SITE_..."""

from __future__ import annotations

import json
import os
from typing import Any

SECRET_KEY = "tests only"
# A probe asks by the address of a pod, and in plain HTTP.
ALLOWED_HOSTS = ["shop.example"]
SECURE_SSL_REDIRECT = True
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.common.CommonMiddleware",
]
USE_TZ = True
ROOT_URLCONF = "tests.health.site.urls"
INSTALLED_APPS = ["django_poolkit"]
DATABASES = json.loads(os.environ.get("SITE_DATABASES", "{}"))
POOLKIT = json.loads(os.environ.get("SITE_POOLKIT", "{}"))
LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(levelname)s %(name)s %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["stderr"], "level": "INFO"},
    # All there is, since no secret may be in it.
    "loggers": {"django_poolkit": {"level": "DEBUG"}, "psycopg": {"level": "DEBUG"}},
}

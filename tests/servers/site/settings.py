"""What the settings of all deployed projects have in common; each adds where its database is."""

from __future__ import annotations

from typing import Any

SECRET_KEY = "tests only"
ALLOWED_HOSTS = ["*"]
USE_TZ = True
ROOT_URLCONF = "tests.servers.site.urls"
INSTALLED_APPS = ["django_prometheus", "django_poolkit", "tests.servers.site"]
MIDDLEWARE = ["django.middleware.common.CommonMiddleware"]
LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(levelname)s %(name)s %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["stderr"], "level": "INFO"},
    # All there is, since no secret may be in it.
    "loggers": {"django_poolkit": {"level": "DEBUG"}, "psycopg": {"level": "DEBUG"}},
}

"""Settings of the site. What differs from run to run comes as JSON in `CHECKER`."""

from __future__ import annotations

import json
import os
from typing import Any

FACTS: dict[str, Any] = json.loads(os.environ["CHECKER"])
"""`name`, `user`, `password`; `ports` of the primary and of the replicas, by their hosts' keys;
`cache`, `queue`, `control`: folders; `max_age`, `pin`, `max_lag`: seconds; `shape`: one alias
with `hosts`, or `aliases`; `choice` of one of the replicas; `looks`: seconds between two,
or nothing; `planted`: a defect, or nothing."""

MAX_AGE: float = FACTS["max_age"]
SECRET_KEY = "of the checker's site"
ALLOWED_HOSTS = ["*"]
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
ROOT_URLCONF = "tests.checker.site.urls"
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django_poolkit",
    "tests.checker.site",
]
MIDDLEWARE = [
    # Looks at what the next one has given the visitor, and touches no database.
    "tests.checker.site.telling.Telling",
    "django_poolkit.middleware.PoolkitMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "tests.checker.site.telling.Explaining",
]
SILENCED_SYSTEM_CHECKS = ["poolkit.W008"]
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]

_ENTRY: dict[str, Any] = {
    "ENGINE": "django_poolkit.backends.postgresql",
    "NAME": FACTS["name"],
    "USER": FACTS["user"],
    "PASSWORD": FACTS["password"],
    "HOST": "127.0.0.1",
}
_POOL = {"mode": "transaction", "max_size": 8, "timeout": 4.0}
_REPLICAS = {key: str(port) for key, port in FACTS["ports"].items() if key != "primary"}
DATABASES: dict[str, dict[str, Any]] = {
    "default": {**_ENTRY, "PORT": str(FACTS["ports"]["primary"]), "OPTIONS": {"pool": _POOL}},
}
if FACTS["shape"] == "hosts":
    _HOSTS = {key: {"PORT": port} for key, port in _REPLICAS.items()}
    DATABASES["replica"] = {**_ENTRY, "OPTIONS": {"pool": _POOL, "hosts": _HOSTS}}
else:
    DATABASES |= {
        key: {**_ENTRY, "PORT": port, "OPTIONS": {"pool": _POOL}} for key, port in _REPLICAS.items()
    }
DATABASE_ROUTERS = ["django_poolkit.routing.ReadWriteRouter"]
CACHES = {
    "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
    "shared": {
        "BACKEND": "django.core.cache.backends.filebased.FileBasedCache",
        "LOCATION": FACTS["cache"],
        "OPTIONS": {"MAX_ENTRIES": 100_000},
    },
}
POOLKIT: dict[str, Any] = {
    "CLUSTERS": {
        "default": {
            "replicas": [alias for alias in DATABASES if alias != "default"],
            "max_lag": FACTS["max_lag"],
            "choice": FACTS["choice"],
        }
    },
    "ROUTING": {
        "HEADER": "X-Floor",
        "CACHE": "shared",
        "DEBUG_HEADER": "X-Routing",
        "MAX_AGE": FACTS["max_age"],
        "PIN": FACTS["pin"],
    },
    "CONTROL": {"DIRECTORY": FACTS["control"]},
}
LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "line": {"format": "%(asctime)s %(process)d %(levelname)s %(name)s %(message)s"}
    },
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["stderr"], "level": "WARNING"},
    "loggers": {"django_poolkit.routing": {"level": "INFO"}},
}

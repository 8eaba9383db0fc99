"""Settings of the example shop. What differs from place to place comes from SHOP_... variables.

`python3 -m example_project` sets them for the server it starts, and writes them down, so that
`manage.py` in another shell finds the same databases.
"""

from __future__ import annotations

import os
from typing import Any

from example_project.places import saved_environment

_environment = {**saved_environment(), **os.environ}

# "poolkit", or "django" for the same site on Django's own engine and pool.
BACKEND = _environment.get("SHOP_BACKEND", "poolkit")
# "transaction": a request holds a connection only while a statement or a transaction runs.
# "session": from its first query to its end, as on Django's own pool.
POOL_MODE = _environment.get("SHOP_POOL_MODE", "transaction")
# What stands between the shop and its primary, if anything: "pgbouncer-transaction".
POOLER = _environment.get("SHOP_POOLER") or None
# "on": a read goes to the replica, unless that has not got yet what its visitor wrote.
ROUTING = _environment.get("SHOP_ROUTING", "on")
# "on": the async methods of the ORM run on the event loop, and Django's middleware with them.
ASYNC_ORM = _environment.get("SHOP_ASYNC_ORM", "on")
# "on": the admin, and in it the dashboard of all pools.
STAFF = _environment.get("SHOP_STAFF", "off")
UPSTREAM_URL = _environment.get("SHOP_UPSTREAM_URL", "http://127.0.0.1:8901/")

SECRET_KEY = "of an example: keep yours out of the repository"
DEBUG = False
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
ROOT_URLCONF = "example_project.urls"
WSGI_APPLICATION = "example_project.wsgi.application"
ASGI_APPLICATION = "example_project.asgi.application"
USE_TZ = True
TIME_ZONE = "UTC"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

INSTALLED_APPS = ["example_project.shop"]
MIDDLEWARE = ["django.middleware.common.CommonMiddleware"]

_pool_size = int(_environment.get("SHOP_POOL_SIZE", "4"))
POOL: dict[str, Any] = {
    "min_size": min(2, _pool_size),
    "max_size": _pool_size,
    "timeout": float(_environment.get("SHOP_POOL_TIMEOUT", "3")),
}

# One line to move in: POOL's options are Django's own, and mean the same to both engines.
ENGINE = "django.db.backends.postgresql"
# Whichever the engine: the supplier's API is asked by connections that all requests share.
POOLKIT: dict[str, Any] = {
    "HTTP": {
        "supplier": {
            "base_url": UPSTREAM_URL,
            "limit": 1_000,  # what waits shall wait at the supplier
            "total": float(_environment.get("SHOP_SUPPLIER_TIMEOUT", "10")),
        },
    },
    # `curl http://.../health/db`: details for this machine, the status alone for others.
    "HEALTH": {
        "REPLICAS": ["replica"],
        "TRUSTED_NETWORKS": ["127.0.0.0/8"],
    },
}
if BACKEND == "poolkit":
    ENGINE = "django_poolkit.backends.postgresql"
    INSTALLED_APPS = ["django_poolkit", *INSTALLED_APPS]
    # Outermost: it turns an exhausted pool into a 503, wherever that was noticed.
    MIDDLEWARE = ["django_poolkit.middleware.PoolkitMiddleware", *MIDDLEWARE]
    # And one word for small pools. Django's own pool knows no such option.
    POOL["mode"] = POOL_MODE
    if POOLER:
        # And one where a pooler stands in between, so that nothing is sent that it loses.
        POOL["pooler"] = POOLER
    # `manage poolstatus` sees the running shop; this lets `manage poolctl` steer it as well.
    POOLKIT["CONTROL"] = {"STEERING": True}
    # Answered by the wrapper of wsgi.py and asgi.py, before Django is asked.
    POOLKIT["HEALTH"]["PATH"] = "/health/"
if BACKEND == "poolkit" and ASYNC_ORM == "on":
    # A request of an async view takes no thread, and none of its queries does.
    POOLKIT["ASYNC_ORM"] = {"ENABLED": True, "MIDDLEWARE": True}
if BACKEND == "poolkit" and ROUTING == "on":
    # Two lines for a replica: what belongs together, and who sends reads where.
    POOLKIT["CLUSTERS"] = {"default": {"replicas": ["replica"]}}
    DATABASE_ROUTERS = ["django_poolkit.routing.ReadWriteRouter"]
if BACKEND == "poolkit" and STAFF == "on":
    # What the admin needs, and its page of all pools. A visitor of the shop pays for none of it.
    INSTALLED_APPS = [
        *(f"django.contrib.{name}" for name in (
            "admin", "auth", "contenttypes", "sessions", "messages", "staticfiles"
        )),
        "django_poolkit.dashboard",
        *INSTALLED_APPS,
    ]  # fmt: skip
    MIDDLEWARE += [
        "example_project.shop.policy.strict_policy",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.messages.middleware.MessageMiddleware",
    ]
STATIC_URL = "static/"


def _database(node: str) -> dict[str, Any]:
    return {
        "ENGINE": ENGINE,
        "NAME": _environment.get("SHOP_DB_NAME", "shop"),
        "USER": _environment.get("SHOP_DB_USER", "postgres"),
        "PASSWORD": _environment.get("SHOP_DB_PASSWORD", ""),
        "HOST": _environment.get(f"SHOP_{node}_HOST", "127.0.0.1"),
        "PORT": _environment.get(f"SHOP_{node}_PORT", "5432"),
        "CONN_HEALTH_CHECKS": True,
        "OPTIONS": {"pool": POOL, "connect_timeout": 5},
    }


DATABASES = {
    "default": _database("PRIMARY"),
    # The report reads here whatever is routed: it may be a moment behind.
    "replica": _database("REPLICA") | {"TEST": {"MIRROR": "default"}},
}

TEMPLATES: list[dict[str, Any]] = [
    {"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True},
]
if STAFF == "on":
    TEMPLATES[0]["OPTIONS"] = {
        "context_processors": [
            "django.template.context_processors.request",
            "django.contrib.auth.context_processors.auth",
            "django.contrib.messages.context_processors.messages",
        ],
    }

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "{asctime} {process} {name}: {message}", "style": "{"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["console"], "level": "WARNING"},
}

"""A site with websockets. The environment says where the database is."""

from __future__ import annotations

import json
import os
from typing import Any

SECRET_KEY = "tests only"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "tests.neighbours.channels.site"
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "channels",
    "django_poolkit",
    "tests.app",
]
MIDDLEWARE = [
    "django_poolkit.middleware.PoolkitMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]
CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
_given: dict[str, Any] = json.loads(os.environ["CHANNELS"])
DATABASES = {"default": _given["database"]}

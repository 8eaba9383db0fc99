"""A site of two tenants. The environment says where the database is, and by which engine."""

from __future__ import annotations

import json
import os
from typing import Any

SECRET_KEY = "tests only"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "tests.neighbours.tenants.site"

SHARED_APPS = [
    "django_tenants",
    "tests.neighbours.tenants.shared",
    "django.contrib.contenttypes",
    "django_poolkit",
]
TENANT_APPS = ["tests.neighbours.tenants.notes"]
INSTALLED_APPS = SHARED_APPS + TENANT_APPS
TENANT_MODEL = "shared.Tenant"
TENANT_DOMAIN_MODEL = "shared.Domain"
DATABASE_ROUTERS = ["django_tenants.routers.TenantSyncRouter"]
MIDDLEWARE = ["django_tenants.middleware.main.TenantMainMiddleware"]

_given: dict[str, Any] = json.loads(os.environ["TENANTS"])
DATABASES = {"default": _given["database"]}
# What the wrapper of django-tenants stands on, where it is in front of ours.
ORIGINAL_BACKEND = _given.get("below", "django.db.backends.postgresql")
TENANT_LIMIT_SET_CALLS = bool(_given.get("limit_set_calls"))

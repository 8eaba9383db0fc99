"""The site of `tests.benchmarks.async_http`: told by the environment what its settings are."""

from __future__ import annotations

import json
import os
from typing import Any

from django.conf import settings


def site() -> Any:
    """Set Django up, and return its ASGI application: the kit's if it has settings for that."""
    poolkit = json.loads(os.environ.get("CONTEST_POOLKIT", "null"))
    others = [os.environ["CONTEST_APP"]] if "CONTEST_APP" in os.environ else []
    session = {"base_url": os.environ["SHOP_UPSTREAM_URL"], "limit": 1_000, "total": 60.0}
    settings.configure(
        DATABASES={"default": json.loads(os.environ["CONTEST_DATABASE"])},
        INSTALLED_APPS=others if poolkit is None else ["django_poolkit"],
        POOLKIT={"HTTP": {"supplier": session}} | (poolkit or {}),
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF="tests.benchmarks.async_http_views",
        USE_TZ=True,
        LOGGING_CONFIG=None,
    )
    # Only now: both read settings as they are loaded.
    if poolkit is None:
        from django.core import asgi

        return asgi.get_asgi_application()
    from django_poolkit import asgi as ours

    return ours.get_asgi_application()


application = site()

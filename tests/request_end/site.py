"""A small site for real servers: the views here behind the wrappers. Settings and entry points.

The test says by environment where the database is.
"""

from __future__ import annotations

import os

import django
from django.conf import settings

POOL_SIZE = 2


def configure() -> None:
    """Set Django up by the environment."""
    settings.configure(
        SECRET_KEY="tests only",
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF="tests.request_end.urls",
        INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "tests.app"],
        USE_TZ=True,
        DATABASES={
            "default": {
                "ENGINE": "django_poolkit.backends.postgresql",
                "NAME": os.environ["SITE_NAME"],
                "HOST": os.environ["SITE_HOST"],
                "PORT": os.environ["SITE_PORT"],
                "USER": os.environ["SITE_USER"],
                "PASSWORD": os.environ["SITE_PASSWORD"],
                "OPTIONS": {"pool": {"max_size": POOL_SIZE, "timeout": 0.3}},
            }
        },
    )
    django.setup()


configure()

from django_poolkit.asgi import get_asgi_application  # noqa: E402
from django_poolkit.wsgi import get_wsgi_application  # noqa: E402

wsgi = get_wsgi_application()
asgi = get_asgi_application()

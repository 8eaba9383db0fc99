"""The site under ASGI."""

from __future__ import annotations

import os

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.health.site.settings"

from django_poolkit.asgi import get_asgi_application

application = get_asgi_application()

"""The site under WSGI."""

from __future__ import annotations

import os

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.health.site.settings"

from django_poolkit.wsgi import get_wsgi_application

application = get_wsgi_application()

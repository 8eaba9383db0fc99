"""The example shop as an ASGI application."""

from __future__ import annotations

import os

# Not setdefault(): a shell often has the settings of another project in its environment.
os.environ["DJANGO_SETTINGS_MODULE"] = "example_project.settings"

from django_poolkit.asgi import get_asgi_application

application = get_asgi_application()

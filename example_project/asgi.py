"""The example shop as an ASGI application."""

from __future__ import annotations

import os
from typing import Any

# Not setdefault(): a shell often has the settings of another project in its environment.
os.environ["DJANGO_SETTINGS_MODULE"] = "example_project.settings"

from example_project.settings import BACKEND

application: Any
if BACKEND == "poolkit":
    # Gives back what a request has leased, however the request ends.
    from django_poolkit import asgi

    application = asgi.get_asgi_application()
else:
    from django.core.asgi import get_asgi_application

    application = get_asgi_application()

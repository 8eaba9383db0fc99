"""The example shop as a WSGI application."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

# Not setdefault(): a shell often has the settings of another project in its environment.
os.environ["DJANGO_SETTINGS_MODULE"] = "example_project.settings"

from example_project.settings import BACKEND

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

application: WSGIApplication
if BACKEND == "poolkit":
    # Gives back what a request has leased, however the request ends.
    from django_poolkit import wsgi

    application = wsgi.get_wsgi_application()
else:
    from django.core.wsgi import get_wsgi_application

    application = get_wsgi_application()

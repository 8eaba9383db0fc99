"""The example shop as a WSGI application."""

import os
from importlib.util import find_spec

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "example_project.settings")

from example_project.settings import BACKEND

if BACKEND == "poolkit" and find_spec("django_poolkit.wsgi"):
    from django_poolkit.wsgi import get_wsgi_application
else:
    from django.core.wsgi import get_wsgi_application

application = get_wsgi_application()

"""The example shop as a WSGI application."""

import os

# Not setdefault(): a shell often has the settings of another project in its environment.
os.environ["DJANGO_SETTINGS_MODULE"] = "example_project.settings"

from example_project.settings import BACKEND

if BACKEND == "poolkit":
    # Gives back what a request has leased, however the request ends.
    from django_poolkit.wsgi import get_wsgi_application
else:
    from django.core.wsgi import get_wsgi_application

application = get_wsgi_application()

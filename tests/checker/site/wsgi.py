"""The site for servers of WSGI."""

import os

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.checker.site.settings"

from django_poolkit.wsgi import get_wsgi_application

application = get_wsgi_application()

from tests.checker.site import planted  # noqa: E402

planted.plant()

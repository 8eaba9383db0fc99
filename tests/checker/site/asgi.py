"""The site for servers of ASGI."""

import os

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.checker.site.settings"

from django_poolkit.asgi import get_asgi_application

application = get_asgi_application()

from tests.checker.site import planted  # noqa: E402

planted.plant()

"""The same with Django mounted in it."""

from __future__ import annotations

from django_poolkit.asgi import get_asgi_application
from tests.neighbours.fastapi.site.alone import app

app.mount("/django", get_asgi_application())

"""What a server process opens as it starts and closes as it stops.

`@resource` declares one of your own. `Poolkit` and `get_asgi_application()` answer the server;
`lifespan` is for Starlette's and FastAPI's `lifespan=`. Where no server sends the protocol, a
resource opens at its first use.
"""

from __future__ import annotations

from django_poolkit.lifespan.base import Resource, ResourceError
from django_poolkit.lifespan.course import status
from django_poolkit.lifespan.declared import Declared, Resources, resource
from django_poolkit.lifespan.keeper import Status
from django_poolkit.lifespan.protocol import lifespan

__all__ = [
    "Declared",
    "Resource",
    "ResourceError",
    "Status",
    "lifespan",
    "resource",
    "resources",
    "status",
]

resources = Resources()

"""Where parameters are bound: on the server, for statements that are to be prepared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def bind_on_the_server(settings: dict[str, Any]) -> None:
    """Turn on Django's `server_side_binding` in an entry of `DATABASES` whose pool prepares.

    psycopg prepares nothing that it binds in the client.
    """
    options = settings["OPTIONS"]
    pool = options.get("pool")
    if isinstance(pool, Mapping) and pool.get("prepare") and "server_side_binding" not in options:
        # A copy: other entries may share the mapping.
        settings["OPTIONS"] = {"server_side_binding": True, **options}

"""What options of the pool bring with them among Django's own settings of a database."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django_poolkit.pools.poolers import traits


def follow_the_pool(settings: dict[str, Any]) -> None:
    """Turn on in an entry of `DATABASES` what its pool needs, where the entry does not say.

    `server_side_binding` for one that prepares: psycopg prepares nothing that it binds in the
    client. `DISABLE_SERVER_SIDE_CURSORS` behind a pooler that lends its sessions by transaction: a
    cursor of the server needs one session, outside of a transaction as well.
    """
    options = settings["OPTIONS"]
    pool = options.get("pool")
    if not isinstance(pool, Mapping):
        return
    if pool.get("prepare") and "server_side_binding" not in options:
        # A copy: other entries may share the mapping.
        settings["OPTIONS"] = {"server_side_binding": True, **options}
    pooler = pool.get("pooler")
    if isinstance(pooler, str) and traits(pooler).shares:
        settings.setdefault("DISABLE_SERVER_SIDE_CURSORS", True)

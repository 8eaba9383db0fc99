"""What the libpq that is loaded can do."""

from __future__ import annotations

from psycopg import pq


def version() -> str:
    """Return its version, as `18.6`."""
    return pq.version_pretty(pq.version())


def options() -> frozenset[str]:
    """Return the names of the connection's options that it knows."""
    return frozenset(option.keyword.decode() for option in pq.Conninfo.get_defaults())

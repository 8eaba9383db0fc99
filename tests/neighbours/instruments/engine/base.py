"""django-prometheus' wrapper with leases: the mixin in front, as its users write it."""

from __future__ import annotations

from django_prometheus.db.backends.postgresql import base

from django_poolkit.backends.postgresql.base import PooledDatabaseWrapperMixin


class DatabaseWrapper(PooledDatabaseWrapperMixin, base.DatabaseWrapper):  # type: ignore[misc]
    """Theirs, pooled."""

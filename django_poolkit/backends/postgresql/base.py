"""`ENGINE: "django_poolkit.backends.postgresql"`: Django's backend on leases from a pool."""

from __future__ import annotations

from django.db.backends.postgresql import base

from django_poolkit.backends.postgresql.transaction_mode import PooledDatabaseWrapperMixin

__all__ = ["DatabaseWrapper", "PooledDatabaseWrapperMixin"]


class DatabaseWrapper(PooledDatabaseWrapperMixin, base.DatabaseWrapper):
    """Django's PostgreSQL wrapper, whose connections are leased."""

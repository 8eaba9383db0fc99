"""`ENGINE: "django_poolkit.backends.postgis"`: GeoDjango's backend on leases from a pool."""

from __future__ import annotations

from django.contrib.gis.db.backends.postgis import base

from django_poolkit.backends.postgresql.transaction_mode import PooledDatabaseWrapperMixin


class DatabaseWrapper(PooledDatabaseWrapperMixin, base.DatabaseWrapper):
    """GeoDjango's PostGIS wrapper, whose connections are leased."""

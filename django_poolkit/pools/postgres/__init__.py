"""A PostgreSQL pool on psycopg_pool's shell, with policies of its own."""

from django_poolkit.pools.postgres.pool import ConnectionPool

__all__ = ["ConnectionPool"]

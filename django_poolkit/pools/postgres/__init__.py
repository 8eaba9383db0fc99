"""A PostgreSQL pool on psycopg_pool's shell, with policies of its own."""

try:
    import psycopg  # noqa: F401
    import psycopg_pool  # noqa: F401
except ImportError as error:
    # Also where psycopg is there and finds no libpq: its own error lists what it has tried.
    raise ImportError(
        f"django_poolkit needs psycopg with psycopg_pool, and cannot import them ({error}). "
        "Install both, with what they need of PostgreSQL: pip install 'django-poolkit[binary]'",
        name="psycopg",
    ) from error

from django_poolkit.pools.postgres.pool import ConnectionPool

__all__ = ["ConnectionPool"]
